"""`sieve data`, run as its users run it."""

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from serving.errors import ConfigError, DataError
from training.commands.data import app
from training.data.tables import Lake

ROOT = Path(__file__).parents[2]
MAPPINGS = ROOT / "examples/mappings"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sieve.yaml"
    path.write_text("root: var\n", encoding="utf-8")
    return path


def sieve_data(config: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], obj=config)


def import_shop(config: Path) -> list[Result]:
    tables = {"items": "films", "users": "members", "events": "plays"}
    return [
        sieve_data(
            config, "import", "table", "--table", table,
            "--mapping", MAPPINGS / f"{name}.yaml", MAPPINGS / "shop" / f"{name}.csv",
        )
        for table, name in tables.items()
    ]  # fmt: skip


def test_the_example_files_are_imported_and_the_bad_row_is_told(config):
    films, members, plays = import_shop(config)
    assert films.output == "items: 3 accepted\n"
    assert members.output == "users: 2 accepted\n"
    assert plays.output.startswith("events: 4 accepted, 1 quarantined\n")
    assert '"at":"yesterday"' in plays.output


def test_the_page_on_data_shows_the_mapping_and_the_answer_of_its_example(config):
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    shown = re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1)
    assert (MAPPINGS / "plays.yaml").read_text(encoding="utf-8").endswith(shown)
    answers = "".join(result.output for result in import_shop(config))
    assert re.search(r"```\n(events: .*?)```", page, re.DOTALL).group(1) in answers


def test_every_command_on_the_page_on_data_works(config, tmp_path, monkeypatch):
    data = ROOT / "../shared/data/ml-latest-small"
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "shop.yaml").write_text("root: var/shop\n", encoding="utf-8")
    (tmp_path / "ml-latest-small").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in (shlex.split(line) for block in blocks for line in block.splitlines()):
        assert words[0] == "sieve"
        named = words[words.index("--config") + 1] if "--config" in words else "sieve.yaml"
        if "movielens" in named and not data.is_dir():
            continue
        own = tmp_path / Path(named).name
        if not own.exists():
            own.write_text("root: var/movielens\n", encoding="utf-8")
        arguments = words[words.index("data") + 1 :]
        if "simulate" in arguments:
            arguments = ["simulate", "--users", "300", "--items", "200", "--days", "10"]
        result = sieve_data(own, *arguments)
        assert result.exit_code == 0, (words, result.output, result.exception)
        ran += 1
    assert ran >= 6


def test_a_simulated_world_is_valid_and_its_versions_are_listed(config):
    assert sieve_data(config, "simulate", "--users", "300", "--items", "200", "--days", "30").exit_code == 0
    result = sieve_data(config, "validate")
    assert result.exit_code == 0, result.exception
    assert "no alarm stands" in result.output
    assert "rank correlation" in result.output
    listed = sieve_data(config, "versions").output
    assert all(table in listed for table in ("items", "users", "impressions", "events"))


def test_validation_fails_while_an_alarm_stands_and_passes_once_it_is_accepted(config, tmp_path):
    import_shop(config)
    lake = Lake(tmp_path / "var/lake")
    with lake.connect() as connection:
        one = connection.sql("SELECT * EXCLUDE event_date FROM events LIMIT 1").to_arrow_table()
    many = pa.concat_tables([one] * 200)
    ids = pa.array([f"e{i}" for i in range(200)])
    lake.append("events", many.set_column(0, "event_id", ids).set_column(5, "type", pa.array(["watch"] * 200)))
    failed = sieve_data(config, "validate")
    assert isinstance(failed.exception, DataError)
    assert "events.type (values) since 2026-01-02" in str(failed.exception)
    accepted = sieve_data(config, "validate", "--acknowledge", "events.type")
    assert accepted.exit_code == 0
    assert sieve_data(config, "validate").exit_code == 0


def test_a_lake_without_tables_says_what_to_run(config):
    for command in ("validate", "versions"):
        error = sieve_data(config, command).exception
        assert isinstance(error, DataError)
        assert "sieve data simulate" in str(error)


def test_an_unknown_table_is_named(config):
    mapping = MAPPINGS / "plays.yaml"
    result = sieve_data(
        config, "import", "table", "--table", "views", "--mapping", mapping, MAPPINGS / "shop/plays.csv"
    )
    assert isinstance(result.exception, ConfigError)
    assert "maps table events, not views" in str(result.exception)
