"""A world written into a lake: whole or not at all."""

import pyarrow as pa
import pytest

from serving.errors import DataError
from training.data.tables import Lake
from training.data.validate import ingest
from training.simulate import batch
from training.simulate.batch import simulate, world_path
from training.simulate.world import World, WorldSettings

SETTINGS = WorldSettings(users=120, items=150, days=4, sessions_per_day=0.5)


class Stopped(Exception):
    """Stands for a run that is killed between two days."""


def stop_at_day_two(done: int, days: int, rows: int) -> None:
    if done == 2:
        raise Stopped


def rows_in(lake: Lake, view: str) -> int:
    return lake.connect().execute(f"SELECT count(*) FROM {view}").fetchall()[0][0]


def test_a_simulated_lake_holds_the_worlds_tables_in_several_commits(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "ROWS_PER_COMMIT", 500)
    lake = Lake(tmp_path / "lake")
    days: list[tuple[int, int]] = []
    report = simulate(lake, SETTINGS, lambda done, total, rows: days.append((done, total)))
    assert days == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.rows["users"] == 120
    assert report.versions == lake.versions()
    assert report.events_per_s > 0
    assert {name: rows_in(lake, name) for name in report.rows} == report.rows
    assert len(lake.history("impressions")) > 2


def test_the_lake_holds_exactly_what_the_world_yields(tmp_path):
    lake = Lake(tmp_path / "lake")
    simulate(lake, SETTINGS)
    expected = pa.concat_tables(events for _, events in World.load(world_path(lake)).days()).sort_by("event_id")
    query = f"SELECT {', '.join(expected.column_names)} FROM events ORDER BY event_id"
    stored = lake.connect().sql(query).to_arrow_table()
    assert stored.cast(expected.schema).equals(expected)


def test_a_simulated_day_passes_the_checks_that_real_feeds_go_through(tmp_path):
    lake, world = Lake(tmp_path / "lake"), World(SETTINGS)
    impressions, events = next(world.days())
    tables = {"users": world.users_table(), "items": world.items_table(), "impressions": impressions, "events": events}
    for name, table in tables.items():
        report = ingest(lake, name, table)
        assert (report.accepted, report.quarantined) == (table.num_rows, 0), report.reasons


def test_a_lake_that_holds_something_is_left_alone(tmp_path):
    lake = Lake(tmp_path / "lake")
    simulate(lake, SETTINGS)
    before = lake.versions()
    with pytest.raises(DataError, match="not empty"):
        simulate(lake, SETTINGS)
    assert lake.versions() == before


def test_a_run_that_is_stopped_leaves_no_lake_and_the_next_one_is_whole(tmp_path):
    lake = Lake(tmp_path / "lake")
    with pytest.raises(Stopped):
        simulate(lake, SETTINGS, stop_at_day_two)
    assert not lake.root.exists()
    assert not world_path(lake).exists()
    report = simulate(lake, SETTINGS)
    assert rows_in(lake, "events") == report.rows["events"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "world.json"]
