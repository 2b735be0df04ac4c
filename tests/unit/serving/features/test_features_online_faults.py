"""Stores that are slow, gone or restarted: a read fails in time, and the next one finds the way back."""

import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from serving.errors import StoreUnavailable
from serving.features.feast_format import entity_key, redis_field
from serving.features.online import HISTORY_VIEW, RedisUserReader, SqliteUserReader

SEEN = b"\x62\x06\x0a\x01a\x0a\x01b"


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [server, "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
        except OSError:
            continue
        return
    pytest.fail("redis-server does not answer")


def store_seen(port: int, *users: str) -> None:
    import redis

    with redis.Redis(port=port) as client:
        for user in users:
            client.hset(entity_key("user_id", user) + b"sieve", redis_field(HISTORY_VIEW, "seen"), SEEN)


def test_a_redis_that_accepts_and_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reader = RedisUserReader(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.1)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="Timeout"):
            reader.read("ann")
        assert time.monotonic() - started < 5  # without a limit it would wait for ever


def test_a_connection_that_redis_has_closed_is_opened_again(redis_port: int) -> None:
    import redis

    store_seen(redis_port, "ann")
    reader = RedisUserReader(f"redis://127.0.0.1:{redis_port}/0")
    assert reader.read("ann") is not None
    with redis.Redis(port=redis_port) as client:
        client.client_kill_filter(_type="normal", skipme=True)

    state = reader.read("ann")

    assert state is not None
    assert state.seen == ["a", "b"]


def test_a_read_after_one_that_timed_out_gets_its_own_answer(redis_port: int) -> None:
    import redis

    store_seen(redis_port, "ann")
    reader = RedisUserReader(f"redis://127.0.0.1:{redis_port}/0", timeout_s=0.2)
    assert reader.read("nobody") is None
    with redis.Redis(port=redis_port) as client:
        client.execute_command("CLIENT", "PAUSE", "400", "ALL")
        with pytest.raises(StoreUnavailable, match="Timeout"):
            reader.read("nobody")
        client.ping()  # answers when the pause is over

    state = reader.read("ann")

    assert state is not None
    assert (state.user_id, state.seen) == ("ann", ["a", "b"])


def test_a_value_of_another_kind_is_unavailable_and_the_next_read_works(redis_port: int) -> None:
    import redis

    store_seen(redis_port, "ann")
    with redis.Redis(port=redis_port) as client:
        client.set(entity_key("user_id", "odd") + b"sieve", b"a string")
    reader = RedisUserReader(f"redis://127.0.0.1:{redis_port}/0")

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        reader.read("odd")
    assert reader.read("ann") is not None


def test_threads_share_a_redis_reader(redis_port: int) -> None:
    users = [f"u{i}" for i in range(50)]
    store_seen(redis_port, *users)
    reader = RedisUserReader(f"redis://127.0.0.1:{redis_port}/0")

    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(reader.read, users * 4))

    assert [state.user_id if state else None for state in states] == users * 4


def write_sqlite(path: Path, **history: bytes) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for view in ("user_stats", "user_history"):
            connection.execute(
                f"CREATE TABLE sieve_{view} (entity_key BLOB, feature_name TEXT, value BLOB, event_ts timestamp)"
            )
        for name, value in history.items():
            row = (entity_key("user_id", "ann"), name, value, 1_775_000_000)
            connection.execute("INSERT INTO sieve_user_history VALUES (?, ?, ?, ?)", row)
        connection.commit()


def test_a_locked_sqlite_is_unavailable_in_time(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    write_sqlite(path, seen=SEEN)
    reader = SqliteUserReader(path, timeout_s=0.05)
    assert reader.read("ann") is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA locking_mode = EXCLUSIVE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            reader.read("ann")
        writer.execute("ROLLBACK")

    assert reader.read("ann") is not None


def test_fields_that_a_store_does_not_have_yet_stay_empty(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "online.db", seen=SEEN)

    state = SqliteUserReader(tmp_path / "online.db").read("ann")

    assert state is not None
    assert (state.seen, state.history_items, state.shown_items) == (["a", "b"], [], [])
    assert state.stats is None
    assert state.shown_counts.dtype == np.float32


def test_columns_of_unequal_length_are_refused_by_name(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "online.db", items=SEEN)

    with pytest.raises(StoreUnavailable, match="history_items and history_times_us and history_grades of user 'ann'"):
        SqliteUserReader(tmp_path / "online.db").read("ann")
