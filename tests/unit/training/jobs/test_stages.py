"""A run that stops anywhere continues there, and never shows half a result."""

from pathlib import Path

import pytest

from serving.errors import ConfigError
from training.jobs.stages import Run, Stage, execute, open_run


def _write(text: str):
    return lambda partial: (partial / "result.txt").write_text(text)


def _fail(partial: Path) -> None:
    (partial / "result.txt").write_text("half")
    raise RuntimeError("killed")


def _run_until_failure(run: Run) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        execute(run, [Stage("first", _write("one")), Stage("second", _fail)], lambda _: None)


def test_a_failed_stage_leaves_no_result_in_place(tmp_path: Path) -> None:
    run = open_run(tmp_path, "recommend", {"seed": 1}, resume=False)
    _run_until_failure(run)
    assert run.has_finished("first")
    assert not run.has_finished("second")


def test_a_resumed_run_repeats_only_what_was_not_done(tmp_path: Path) -> None:
    run = open_run(tmp_path, "recommend", {"seed": 1}, resume=False)
    _run_until_failure(run)
    run.release()
    again = open_run(tmp_path, "recommend", {"seed": 1}, resume=True)
    assert again.path == run.path
    execute(again, [Stage("first", _fail), Stage("second", _write("two"))], lambda _: None)
    assert (again.output("first") / "result.txt").read_text() == "one"
    assert (again.output("second") / "result.txt").read_text() == "two"


def test_changed_settings_are_named_and_refused(tmp_path: Path) -> None:
    open_run(tmp_path, "recommend", {"training": {"seed": 1}}, resume=False).release()
    with pytest.raises(ConfigError, match=r"training\.seed: 1 is now 2"):
        open_run(tmp_path, "recommend", {"training": {"seed": 2}}, resume=True)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    open_run(tmp_path, "recommend", {}, resume=False).finish({"passed": True})
    with pytest.raises(ConfigError, match="no unfinished recommend run"):
        open_run(tmp_path, "recommend", {}, resume=True)


def test_a_run_that_is_still_going_is_not_taken_up(tmp_path: Path) -> None:
    going = open_run(tmp_path, "recommend", {}, resume=False)
    with pytest.raises(ConfigError, match="still going in another process"):
        open_run(tmp_path, "recommend", {}, resume=True)
    going.release()
    assert open_run(tmp_path, "recommend", {}, resume=True).path == going.path
