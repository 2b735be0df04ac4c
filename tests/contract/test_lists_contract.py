"""Every store of precomputed lists keeps them alike."""

import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

from serving.errors import StoreUnavailable
from serving.features.lists import RedisLists, SqliteLists, StoredList

NOW_US = time.time_ns() // 1000
APP = "recommend"


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory):
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    process = subprocess.Popen(
        [server, "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if "Ready to accept connections" in line:
            break
    yield port
    process.terminate()
    process.wait(10)


@pytest.fixture(params=["sqlite", "redis"])
def lists(request, tmp_path):
    if request.param == "sqlite":
        yield SqliteLists(tmp_path / "online.db")
        return
    port = request.getfixturevalue("redis_port")
    store = RedisLists(f"redis://127.0.0.1:{port}/0")
    yield store
    store._client.flushdb()


def made(user_id="u1", items=("i1", "i2"), bundle="recommend/a", at_us=NOW_US):
    return StoredList(user_id, items, np.linspace(1, 0.5, len(items), dtype=np.float32), bundle, at_us)


def test_a_list_comes_back_as_it_was_written(lists):
    written = made(items=("i1", "zwölf", "i\u20ac"))
    assert lists.write(APP, [written]) == 1
    read = lists.read(APP, "u1")
    assert (read.user_id, read.items, read.bundle, read.computed_at_us) == ("u1", written.items, "recommend/a", NOW_US)
    assert read.scores.dtype == np.float32
    assert read.scores.tolist() == written.scores.tolist()


def test_nobody_has_a_list_before_one_is_written(lists):
    assert lists.read(APP, "u1") is None


def test_lists_of_applications_and_users_are_apart(lists):
    lists.write(APP, [made("u1"), made("u2", ("i9",))])
    lists.write("search", [made("u1", ("i7",))])
    assert lists.read(APP, "u1").items == ("i1", "i2")
    assert lists.read(APP, "u2").items == ("i9",)
    assert lists.read("search", "u1").items == ("i7",)


def test_a_newer_list_takes_the_place_of_the_older_one(lists):
    lists.write(APP, [made()])
    lists.write(APP, [made(items=("i5",), at_us=NOW_US + 1)])
    assert lists.read(APP, "u1").items == ("i5",)


def test_many_lists_are_written_in_one_call(lists):
    assert lists.write(APP, (made(f"u{n}", (f"i{n}",)) for n in range(2500))) == 2500
    assert [lists.read(APP, f"u{n}").items for n in (0, 999, 1000, 2499)] == [
        ("i0",),
        ("i999",),
        ("i1000",),
        ("i2499",),
    ]


def test_an_empty_list_is_a_list(lists):
    lists.write(APP, [made(items=())])
    assert lists.read(APP, "u1").items == ()


def test_a_deleted_list_is_gone(lists):
    lists.write(APP, [made("u1"), made("u2")])
    assert lists.delete(APP, "u1")
    assert not lists.delete(APP, "u1")
    assert lists.read(APP, "u1") is None
    assert lists.read(APP, "u2") is not None


def test_a_file_that_is_no_database_is_an_unavailable_store(tmp_path):
    (tmp_path / "online.db").write_text("no database" * 500)
    with pytest.raises(StoreUnavailable):
        SqliteLists(tmp_path / "online.db").read(APP, "u1")


def test_a_redis_that_is_not_there_is_an_unavailable_store():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreUnavailable):
        RedisLists(f"redis://127.0.0.1:{port}/0").read(APP, "u1")


def test_a_redis_that_does_not_answer_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = RedisLists(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.2)
        with pytest.raises(StoreUnavailable):
            store.read(APP, "u1")


@pytest.mark.parametrize(
    "document", [b"[1]", b"not json", b'{"items": ["i1"], "scores": [], "bundle": "b", "computed_at_us": 1}']
)
def test_what_is_no_list_is_not_served(redis_port, document):
    store = RedisLists(f"redis://127.0.0.1:{redis_port}/3")
    store._client.set("sieve:list:recommend:u1", document)
    with pytest.raises(StoreUnavailable, match="is not one"):
        store.read(APP, "u1")
