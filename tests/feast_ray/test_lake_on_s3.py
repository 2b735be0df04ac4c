"""The lake on object storage, against an S3 server in a process of its own."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("moto", reason="the S3 server is of the environment of locks/feast-ray.txt: make feast-ray-test")

import boto3
from recent_world import SIZE, make_world

from serving.config import SieveConfig
from serving.errors import ConfigError, DataError
from training.data.tables import Lake, open_lake

TABLES = ("users", "items", "impressions", "events")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        assert any("Running on" in line for line in iter(server.stderr.readline, ""))
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def config(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SieveConfig:
    for name, value in (("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")):
        monkeypatch.setenv(name, value)
    bucket = f"films-{os.urandom(4).hex()}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    options = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    remote = {"url": f"s3://{bucket}/a lake", "storage_options": options}
    return SieveConfig(root=tmp_path / "var", training={"lake": remote})


def rows_of(table: str) -> pa.Table:
    return make_world(SIZE).sql(f"SELECT * FROM {table}").to_arrow_table()


def fill(lake: Lake) -> None:
    for table in TABLES:
        lake.append(table, rows_of(table))


def test_it_answers_as_the_lake_on_disk_does(config: SieveConfig, tmp_path: Path) -> None:
    remote, local = open_lake(config), Lake(tmp_path / "disk")
    fill(remote)
    fill(local)
    queries = [f"SELECT count(*), bit_xor(hash(COLUMNS(*))) FROM {t}" for t in ("users_log", "items", *TABLES[2:])]
    queries.append(
        "SELECT event_date, type, count(*) FROM events WHERE event_date > '2026-01-03' GROUP BY ALL ORDER BY ALL"
    )

    theirs, ours = remote.connect(), local.connect()
    for query in queries:
        assert theirs.execute(query).fetchall() == ours.execute(query).fetchall()
    assert remote.versions() == local.versions()
    assert not (config.lake / "events").exists()


def test_a_version_is_read_as_it_was_after_more_was_appended(config: SieveConfig) -> None:
    lake, rows = open_lake(config), rows_of("events")
    first = {"events": lake.append("events", rows.slice(0, 100))}
    lake.append("events", rows.slice(100))

    assert lake.connect(first).execute("SELECT count(*) FROM events").fetchone() == (100,)
    assert lake.connect().execute("SELECT count(*) FROM events").fetchone() == (rows.num_rows,)
    assert [entry["rows_added"] for entry in lake.history("events")][:2] == [rows.num_rows - 100, 100]


def test_appends_at_the_same_moment_are_all_there(config: SieveConfig) -> None:
    rows = rows_of("events")
    open_lake(config).append("events", rows.slice(0, 0))
    parts = [rows.slice(start, 50) for start in range(0, 400, 50)]
    together = threading.Barrier(4)

    def append(part: pa.Table) -> int:
        together.wait(60)
        return open_lake(config).append("events", part)

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(append, parts))

    connection = open_lake(config).connect()
    assert connection.execute("SELECT count(*), count(DISTINCT event_id) FROM events").fetchone() == (400, 400)
    assert len(set(versions)) > 1
    assert open_lake(config).versions()["events"] == len(parts)


def test_a_bucket_that_is_not_there_is_a_clear_error(config: SieveConfig) -> None:
    wrong = {**config.training["lake"], "url": "s3://no-such-bucket/lake"}

    with pytest.raises(DataError, match="s3://no-such-bucket/lake"):
        open_lake(config.model_copy(update={"training": {"lake": wrong}})).append("users", rows_of("users"))


def test_credentials_in_the_configuration_are_refused(config: SieveConfig) -> None:
    options = {"AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}
    unsafe = config.model_copy(update={"training": {"lake": {"url": "s3://films/lake", "storage_options": options}}})

    with pytest.raises(ConfigError) as caught:
        open_lake(unsafe)

    assert "AWS_SECRET_ACCESS_KEY: credentials are not configuration" in caught.value.problems[0]
