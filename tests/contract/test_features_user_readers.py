"""Every reader of the online store finds what the pinned Feast finds there."""

import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from feature_world import WorldSize, make_world

from serving.config import OnlineStore, RedisOnlineStore, SieveConfig, SqliteOnlineStore
from serving.errors import StoreUnavailable
from serving.features.feast_format import decode_floats, decode_int64s, decode_strings, entity_key, murmur3_32
from serving.features.online import HISTORY_FIELDS, RedisUserReader, SqliteUserReader, UserReader, open_reader
from serving.features.online_users import user_ids
from training.features.materialize import materialize
from training.features.repository import USER_SERVICE, apply_definitions, open_store

SIZE = WorldSize(users=60, items=50, days=8)


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def online(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, UserReader]]:
    """Feast's store over a materialised world, and our reader of the same online store."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield filled(root, SqliteOnlineStore(path=root / "online.db"))
        return
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [server, "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield filled(root, RedisOnlineStore(type="redis", url=f"redis://127.0.0.1:{port}/1"))
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
        except OSError:
            continue
        return
    pytest.fail("redis-server does not answer")


def filled(root: Path, store: OnlineStore) -> tuple[Any, UserReader]:
    config = SieveConfig(root=root, online_store=store)
    apply_definitions(config)
    materialize(config, make_world(SIZE))
    return open_store(config), open_reader(store)


def store_of(reader: UserReader) -> OnlineStore:
    if isinstance(reader, SqliteUserReader):
        return SqliteOnlineStore(path=reader._path)
    options = reader._pool.connection_kwargs
    return RedisOnlineStore(type="redis", url=f"redis://127.0.0.1:{options['port']}/{options['db']}")


def test_the_reader_finds_what_feast_finds_for_every_user(online: tuple[Any, UserReader]) -> None:
    store, reader = online
    users = [f"u{i:07d}" for i in range(SIZE.users)] + ["nobody", "ünknown"]
    service = store.get_feature_service(USER_SERVICE)
    expected = store.get_online_features(service, entity_rows=[{"user_id": u} for u in users]).to_dict()
    found = in_vain = 0

    for i, user in enumerate(users):
        state = reader.read(user)
        row = {name: expected[name][i] for name in ("user_values", *HISTORY_FIELDS)}
        if state is None:
            assert set(row.values()) == {None}
            continue
        found += 1
        assert state.user_id == user
        if row["user_values"] is None:
            assert state.stats is None
        else:
            assert state.stats is not None
            assert state.stats.tobytes() == np.array(row["user_values"], np.float32).tobytes()
        assert state.history_items == (row["items"] or [])
        assert state.history_times_us.tolist() == (row["times_us"] or [])
        assert state.history_grades.tolist() == (row["grades"] or [])
        assert state.seen == (row["seen"] or [])
        assert state.shown_items == (row["shown"] or [])
        assert state.shown_counts.tolist() == (row["shown_counts"] or [])
        in_vain += bool(state.shown_items)
    assert found > 40
    assert in_vain > 0


def test_every_user_with_a_history_is_listed_once(online: tuple[Any, UserReader]) -> None:
    reader = online[1]
    listed = list(user_ids(store_of(reader)))
    stored = [f"u{i:07d}" for i in range(SIZE.users)]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(stored)
    assert set(listed) >= {user for user in stored if (state := reader.read(user)) and state.history_items}


def test_the_snapshots_stamp_is_midnight_utc(online: tuple[Any, UserReader]) -> None:
    state = online[1].read("u0000001")

    assert state is not None
    assert state.stats_time_us is not None
    assert state.stats_time_us % 86_400_000_000 == 0
    assert state.stats_time_us > 1_767_225_600_000_000


def test_sqlite_is_read_while_a_materialisation_writes(tmp_path: Path) -> None:
    _, reader = filled(tmp_path, SqliteOnlineStore(path=tmp_path / "online.db"))
    before = reader.read("u0000001")
    writer = sqlite3.connect(tmp_path / "online.db", isolation_level=None)
    try:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("UPDATE sieve_user_stats SET value = x'00'")
        during = reader.read("u0000001")
        writer.execute("ROLLBACK")
    finally:
        writer.close()

    assert before is not None
    assert during is not None
    assert during.history_items == before.history_items
    assert during.stats is not None


def test_keys_and_hashes_are_those_of_the_pinned_feast() -> None:
    import mmh3
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    for user in ("u1", "", "ünïcode", "x" * 128):
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
        assert entity_key("user_id", user) == serialize_entity_key(key, 3)
        assert murmur3_32(user.encode()) == mmh3.hash(user, signed=False)


def test_values_are_decoded_as_protobuf_encodes_them() -> None:
    from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, StringList, Value

    for strings in ([], ["a"], ["i1", "i2"], ["a", "longer", ""], ["é", "ü"], ["x" * 200, "y" * 200], ["\n\x03ab"]):
        assert decode_strings(Value(string_list_val=StringList(val=strings)).SerializeToString()) == strings
    for integers in ([], [0], [1, -1, 2**63 - 1, -(2**63), 300, 1_767_225_600_000_000]):
        decoded = decode_int64s(Value(int64_list_val=Int64List(val=integers)).SerializeToString())
        assert decoded is not None
        assert decoded.tolist() == integers
    floats = np.array([1.5, -0.0, np.inf, np.nan], np.float32)
    stored = decode_floats(Value(float_list_val=FloatList(val=floats.tolist())).SerializeToString())
    assert stored is not None
    assert stored.tobytes() == floats.tobytes()


def test_a_value_of_another_type_or_cut_short_is_refused() -> None:
    from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, Value

    floats = Value(float_list_val=FloatList(val=[1, 2])).SerializeToString()
    with pytest.raises(ValueError, match="field 16"):
        decode_int64s(floats)
    with pytest.raises(ValueError, match="truncated"):
        decode_floats(floats[:-1])
    with pytest.raises(ValueError, match="truncated"):
        decode_int64s(Value(int64_list_val=Int64List(val=[2**60])).SerializeToString()[:-1])


def test_a_store_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open"):
        SqliteUserReader(tmp_path / "missing.db").read("ann")
    with pytest.raises(StoreUnavailable):
        RedisUserReader("redis://127.0.0.1:1/0", timeout_s=0.2).read("ann")
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreUnavailable, match="no such table"):
        SqliteUserReader(tmp_path / "empty.db").read("ann")
    (tmp_path / "other.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        SqliteUserReader(tmp_path / "other.db").read("ann")
