"""Every benchmark, one after another: `make bench`, or those that are named: `python -m tests.bench serving rules`.

A name stands for itself or for all that begin with it. Each part runs in a process of its own and writes its own
report; all rows together go to `build/reports/bench.json`, a part that fails as a row of its own. Exits with 1 where
one failed.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from training.evaluate.report import Row, report_table, write_report

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "build/reports"
PARTS = (
    "simulate",
    "point_in_time",
    "pipeline",
    "hot_path",
    "retrieval",
    "rules",
    "http_overhead",
    "grpc_overhead",
    "serving_path",
    "serving_load",
    "flame",
)
LAST_WORDS = 3


@dataclass(frozen=True)
class Part:
    """One benchmark that has run."""

    name: str
    rows: list[Row]
    failed: bool


def main(wanted: list[str]) -> None:
    """Runs the parts, writes one report of all of them, and exits with 1 where one failed."""
    names = chosen(wanted)
    parts = [run_part(name) for name in names]
    rows = [row for part in parts for row in part.rows]
    Console(width=160).print(report_table("bench", rows))
    print(f"written to {write_report('bench', rows, REPORTS)}")
    if failed := [part.name for part in parts if part.failed]:
        sys.exit(f"failed: {', '.join(failed)}")


def chosen(wanted: list[str]) -> list[str]:
    """The parts that are there, of those that are wanted; nothing wanted is all of them."""
    there = [name for name in PARTS if (Path(__file__).parent / f"{name}.py").is_file()]
    unknown = [word for word in wanted if not any(name.startswith(word) for name in there)]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(there)}")
    return [name for name in there if not wanted or any(name.startswith(word) for word in wanted)]


def run_part(name: str) -> Part:
    """Runs one benchmark and collects the reports that it wrote."""
    print(f"== {name}", flush=True)
    before, started = _written(), time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.{name}"]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    new = [path for path, stamp in _written().items() if before.get(path) != stamp]
    rows = [_row(name, document) for path in sorted(new) for document in json.loads(path.read_text(encoding="utf-8"))]
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-LAST_WORDS:]) or "it said nothing"
        rows.append(Row(f"{name}: failed", done.returncode, "exit code", "0", False, said[:300]))
    print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    return Part(name, rows, done.returncode != 0)


def _written() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in REPORTS.glob("*.json") if path.stem != "bench"}


def _row(part: str, document: dict[str, Any]) -> Row:
    value = float("nan") if document["value"] is None else document["value"]
    return Row(**(document | {"name": f"{part}: {document['name'].strip()}", "value": value}))


if __name__ == "__main__":
    main(sys.argv[1:])
