"""Every benchmark, one after another: `make bench`."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("simulate", "point_in_time", "pipeline")

if __name__ == "__main__":
    failed = [
        name
        for name in BENCHMARKS
        if subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], cwd=Path(__file__).parents[2]).returncode
    ]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
