"""How long training takes and what it holds: `python -m tests.bench.pipeline`.

The default world through `sieve train recommend`, and the demo from nothing to its first answer. Memory is the largest
sum over the process tree of proportional set sizes, looked at every two seconds. Writes `build/reports/pipeline.json`.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from training.evaluate.report import Row, at_most, report_table, write_report

ROOT = Path(__file__).parents[2]
SIEVE = str(Path(sys.executable).with_name("sieve"))
POLL_S = 2.0
GIB = 2**30


def main() -> None:
    """Runs both once each (they take minutes), prints the table and writes the report."""
    rows = [*measure_default_world(), *measure_demo()]
    Console(width=140).print(report_table("pipeline", rows))
    print(f"written to {write_report('training', rows)}")


def measure_default_world() -> list[Row]:
    """Wall time and memory of `sieve train recommend` on 10,000 users x 2,000 films x 120 days."""
    with tempfile.TemporaryDirectory(prefix="default-world-") as folder:
        config = Path(folder) / "sieve.yaml"
        config.write_text("root: state\nonline_store: {type: sqlite, path: online.db}\n")
        subprocess.run([SIEVE, "-c", str(config), "data", "simulate"], check=True)
        seconds, peak, _ = _watched([SIEVE, "-c", str(config), "train", "recommend"])
    how = "sieve train recommend, default world, one run"
    return [
        at_most("train recommend, default world", seconds, 300, "s", how),
        at_most("memory of all its processes at their largest", peak / GIB, 6, "GiB", how),
    ]


def measure_demo() -> list[Row]:
    """From nothing to the first answer, packages installed."""
    _, _, output = _watched([sys.executable, str(ROOT / "tools/demo.py"), "--once"])
    found = re.search(r"from nothing to the first answer: (\d+) s", output)
    seconds = float(found.group(1)) if found else float("nan")
    return [at_most("make demo to the first answer", seconds, 240, "s", "make demo ONCE=1, one run")]


def _watched(command: list[str]) -> tuple[float, int, str]:
    """Runs a command and returns its seconds, peak memory of its process tree in bytes, and output."""
    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        while process.poll() is None:
            peak = max(peak, _tree_bytes(process.pid))
            time.sleep(POLL_S)
        output.seek(0)
        text = output.read()
    print(text)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.monotonic() - started, peak, text


def _tree_bytes(pid: int) -> int:
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue  # it ended while we looked
    return total


if __name__ == "__main__":
    main()
