"""What a line of log holds, and which requests get one."""

import asyncio
import io
import json
import logging
import sys

import pytest

from serving.observability.logs import AccessLog, RequestScope, configure_logs
from serving.observability.recorder import Outcome
from serving.observability.settings import AccessLogSettings, LogSettings

log = logging.getLogger("serving.test")
GOOD = Outcome("200", 0.001, "ranker", "stable", 20)


@pytest.fixture(autouse=True)
def _as_it_was():
    root, serving = logging.getLogger(), logging.getLogger("serving")
    handlers, level = list(root.handlers), serving.level
    yield
    root.handlers[:] = handlers
    serving.setLevel(level)


def configured(**settings: object) -> io.StringIO:
    stream = io.StringIO()
    configure_logs(LogSettings.model_validate(settings), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def access_of(**settings: object) -> AccessLog:
    return AccessLog(AccessLogSettings.model_validate(settings))


def test_an_event_is_one_json_line_with_the_request_it_belongs_to():
    stream = configured()
    with RequestScope("r1", "p1"):
        log.warning("stage %s failed", "onnx", extra={"error_id": "e1", "stage": "onnx"})
    log.info("outside")
    first, second = lines(stream)
    assert first["time"].endswith("Z")
    del first["time"], second["time"]
    assert first == {
        "level": "WARNING", "logger": "serving.test", "message": "stage onnx failed",
        "request_id": "r1", "prediction_id": "p1", "error_id": "e1", "stage": "onnx",
    }  # fmt: skip
    assert second == {"level": "INFO", "logger": "serving.test", "message": "outside"}


def test_a_traceback_stays_on_its_line():
    stream = configured()
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        log.exception("it failed")
    (line,) = lines(stream)
    assert "ValueError: bad\nvalue" in line["exception"]


def test_fields_that_are_not_known_are_left_out_so_that_no_body_gets_in():
    stream = configured()
    log.warning("refused", extra={"body": {"user_id": "u1"}, "status": "422"})
    assert "u1" not in stream.getvalue()
    assert lines(stream)[0]["status"] == "422"


def test_a_message_is_bounded():
    stream = configured()
    log.warning("x" * 1_000_000)
    assert len(stream.getvalue()) < 5000
    assert lines(stream)[0]["message"].endswith("(1000000 characters)")


def test_requests_that_run_at_the_same_time_keep_their_own_ids():
    stream = configured()

    async def one(request_id: str) -> None:
        with RequestScope(request_id):
            for _ in range(3):
                await asyncio.sleep(0)
                log.info("%s", request_id)

    async def both() -> None:
        await asyncio.gather(one("r1"), one("r2"))

    asyncio.run(both())
    assert len(lines(stream)) == 6
    assert all(line["request_id"] == line["message"] for line in lines(stream))


def test_text_is_for_people_and_one_line_too():
    stream = configured(format="text")
    with RequestScope("r1"):
        log.warning("two\nlines")
    assert stream.getvalue().endswith("WARNING serving.test two\\nlines [request_id=r1]\n")


def test_the_level_holds_for_sieve_and_other_packages_speak_from_warning_on():
    stream = configured(level="INFO")
    other = logging.getLogger("a_users_own.stages")
    log.debug("quiet")
    log.info("told")
    other.info("quiet")
    other.warning("told as well")
    assert [line["message"] for line in lines(stream)] == ["told", "told as well"]


def test_configuring_twice_logs_once():
    first, second = configured(), configured()
    log.warning("once")
    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_standard_error_is_the_processs_own_even_where_something_replaced_it(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with open(2, "w", closefd=False) as own:
        monkeypatch.setattr(sys, "__stderr__", own)
        configure_logs(LogSettings.model_validate({}))
        log.warning("seen")
    assert sys.stderr.getvalue() == ""
    assert json.loads(capfd.readouterr().err)["message"] == "seen"


@pytest.mark.parametrize(
    ("outcome", "is_logged"),
    [
        (GOOD, False),
        (Outcome("422", 0.001), False),
        (Outcome("200", 0.2, "ranker", "stable", 20), True),
        (Outcome("503", 0.001), True),
        (Outcome("OK", 0.001, "ranker", "stable", 20), False),
        (Outcome("INVALID_ARGUMENT", 0.001), False),
        (Outcome("UNAVAILABLE", 0.001), True),
    ],
)
def test_by_default_failed_and_slow_requests_are_logged_only(outcome, is_logged):
    stream = configured()
    access_of().note("recommend", "http", outcome)
    assert bool(lines(stream)) is is_logged


def test_an_access_line_says_how_it_went_and_whose_it_was():
    stream = configured()
    outcome = Outcome("200", 0.25, "popular", "stable", 20, degraded=("onnx",))
    with RequestScope("r1", "p1"):
        access_of(slow_ms=200).note("recommend", "grpc", outcome, bundle="recommend/v1")
    (line,) = lines(stream)
    del line["time"]
    assert line == {
        "level": "INFO", "logger": "serving.access", "message": "answered", "request_id": "r1", "prediction_id": "p1",
        "app": "recommend", "transport": "grpc", "status": "200", "latency_ms": 250.0, "served_by": "popular",
        "arm": "stable", "bundle": "recommend/v1", "degraded": ["onnx"],
    }  # fmt: skip


def test_all_requests_or_none_or_a_share_can_be_logged():
    stream = configured()
    access_of(requests="none").note("recommend", "http", Outcome("503", 1.0))
    assert not lines(stream)
    access_of(requests="all").note("recommend", "http", GOOD)
    assert len(lines(stream)) == 1
    sampled = access_of(requests="notable", sample=0.5, lines_per_s=100_000)
    for _ in range(1000):
        sampled.note("recommend", "http", GOOD)
    assert 350 < len(lines(stream)) - 1 < 650


def test_a_storm_of_errors_is_bounded_and_what_was_left_out_is_told(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("serving.observability.logs.time.monotonic", lambda: now[0])
    stream = configured()
    access = access_of(lines_per_s=5)
    for _ in range(100):
        access.note("recommend", "http", Outcome("503", 0.001))
    assert len(lines(stream)) == 5
    now[0] = 11.0
    access.note("recommend", "http", Outcome("503", 0.001))
    assert lines(stream)[-1]["suppressed"] == 95
