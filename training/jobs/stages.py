"""A run of ordered stages that resumes at the one that failed.

A run is a folder; a finished stage is a folder in it. A stage works in `NAME.partial`, which is flushed to
disk and renamed to `NAME` when the work is done, so that a kill at any moment leaves either a whole result or
none, and what is done can be read off the folder itself.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from serving.durable import flush, flush_tree, write_json
from serving.errors import ConfigError

RUN_FILE = "run.json"
FINISHED_FILE = "finished.json"
LOCK_FILE = "lock"


@dataclass(frozen=True)
class Stage:
    """One step: `work(partial)` writes its whole result into the folder `partial`."""

    name: str
    work: Callable[[Path], None]


@dataclass(frozen=True)
class Run:
    """A training run's folder and what identifies it."""

    path: Path
    settings_sha256: str
    lock: IO[str]
    """Held until the process ends or `release`, so that nobody else takes the run up."""

    def output(self, stage: str) -> Path:
        """Folder of a finished stage's result."""
        return self.path / stage

    def has_finished(self, stage: str) -> bool:
        """Whether the stage's result is in place."""
        return self.output(stage).is_dir()

    def release(self) -> None:
        """Lets another process take the run up."""
        self.lock.close()

    def finish(self, outcome: dict[str, object]) -> None:
        """Records the outcome; a finished run is never resumed."""
        write_json(self.path / FINISHED_FILE, outcome)


def open_run(root: Path, app: str, settings: dict[str, object], resume: bool) -> Run:
    """Starts a new run, or takes up the newest unfinished one when `resume` is asked for.

    Raises:
        ConfigError: there is nothing to resume, the run is still going, or the settings have changed since it began.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = root / app
    if not resume:
        path = folder / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path.mkdir(parents=True)
        lock = _lock(path)
        write_json(path / RUN_FILE, {"app": app, "settings_sha256": digest, "settings": settings})
        return Run(path, digest, lock)
    unfinished = [p for p in _runs(folder) if not (p / FINISHED_FILE).exists()]
    if not unfinished:
        raise ConfigError(f"no unfinished {app} run in {folder}: start one without --resume")
    lock = _lock(unfinished[-1])
    recorded = json.loads((unfinished[-1] / RUN_FILE).read_text())
    if recorded["settings_sha256"] != digest:
        changed = sorted(_changed_keys(recorded["settings"], settings))
        raise ConfigError(f"run {unfinished[-1].name} began with other settings; start a new run", changed)
    return Run(unfinished[-1], digest, lock)


def execute(run: Run, stages: Sequence[Stage], report: Callable[[str], None], first: int = 1) -> None:
    """Runs the stages that are not done yet, in order; what a stage raises stops the run there.

    `first` is the number that the first of them is reported with.
    """
    for number, stage in enumerate(stages, start=first):
        label = f"[{number}] {stage.name}"
        if run.has_finished(stage.name):
            report(f"{label}: done before")
            continue
        partial = run.path / f"{stage.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        started = time.monotonic()
        report(f"{label} ...")
        stage.work(partial)
        flush_tree(partial)
        partial.rename(run.output(stage.name))
        flush(run.path)
        report(f"{label}: {time.monotonic() - started:.1f} s")


def _lock(run: Path) -> IO[str]:
    file = (run / LOCK_FILE).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"run {run.name} is still going in another process") from None
    return file


def _runs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if (p / RUN_FILE).exists()) if folder.is_dir() else []


def _changed_keys(old: dict[str, object], new: dict[str, object], prefix: str = "") -> set[str]:
    changed: set[str] = set()
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed |= _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.add(f"{prefix}{key}: {before!r} is now {after!r}")
    return changed
