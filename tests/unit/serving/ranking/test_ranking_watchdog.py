"""Runs that outlive their deadline are ended; those in time are left alone."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.bundles.onnx_models import open_session
from serving.core.deadline import NEVER_S, STAGE_DEADLINE_S
from serving.errors import DeadlineExceeded
from serving.ranking.onnx import run_model
from serving.ranking.watchdog import Watchdog


def looping_model(path: Path) -> Path:
    """`score` is `times` counted up one by one in a Loop: a million rounds take the better part of a second."""
    boolean, number = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", boolean, []),
            helper.make_tensor_value_info("sum", number, [1]),
        ],
        [helper.make_tensor_value_info("go_on", boolean, []), helper.make_tensor_value_info("next", number, [1])],
        [helper.make_tensor("one", number, [1], [1.0])],
    )
    nodes = [
        helper.make_node("Cast", ["times"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["whole"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "", "zero"], ["score"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("times", number, [1])],
        [helper.make_tensor_value_info("score", number, [1])],
        [helper.make_tensor("zero", number, [1], [0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_session(looping_model(tmp_path_factory.mktemp("model") / "slow.onnx"))


def run(session: Any, rounds: float, deadline_s: float) -> float:
    token = STAGE_DEADLINE_S.set(deadline_s)
    try:
        return float(run_model(session, {"times": np.array([rounds], np.float32)})[0])
    finally:
        STAGE_DEADLINE_S.reset(token)


def test_a_run_that_passes_its_deadline_is_ended(session: Any) -> None:
    with pytest.raises(DeadlineExceeded, match="still running"):
        run(session, 1e12, time.monotonic() + 0.05)


def test_the_session_goes_on_working_after_an_ended_run(session: Any) -> None:
    with pytest.raises(DeadlineExceeded):
        run(session, 1e12, time.monotonic() + 0.01)
    assert run(session, 100, time.monotonic() + 60) == 100


def test_only_the_late_run_of_several_is_ended(session: Any) -> None:
    results: dict[str, object] = {}

    def attempt(name: str, rounds: float, seconds: float) -> None:
        try:
            results[name] = run(session, rounds, time.monotonic() + seconds)
        except DeadlineExceeded:
            results[name] = "late"

    calls = [("late", 1e12, 0.02), ("in time", 20_000, 60), ("unlimited", 20_000, NEVER_S)]
    threads = [threading.Thread(target=attempt, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {"late": "late", "in time": 20_000, "unlimited": 20_000}


def test_a_watchdog_that_fell_asleep_wakes_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.ranking.watchdog.LINGER_S", 0.0)
    watchdog = Watchdog()

    class Options:
        def __init__(self) -> None:
            self.ended = threading.Event()

        @property
        def terminate(self) -> bool:
            return self.ended.is_set()

        @terminate.setter
        def terminate(self, value: bool) -> None:
            self.ended.set()

    for _ in range(3):
        options = Options()
        key = watchdog.enter(time.monotonic(), options)
        assert options.ended.wait(10)
        watchdog.leave(key)
        deadline = time.monotonic() + 10
        while not watchdog.is_asleep and time.monotonic() < deadline:
            pass
        assert watchdog.is_asleep
