"""Where an answer's time goes, as a flame graph: `python -m tests.bench.flame [--items N] [--seconds S] [--native]`.

py-spy, which comes with Ray, looks at a process that answers one request after another, from outside, 500 times a
second. Writes `build/reports/flame.svg`: a self-contained page, frames clickable.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.bench.serving_bundle import NEURAL, ROOT, TREES, WorldSize, open_bundles
from tests.bench.serving_users import world_config

REPORT = Path("build/reports/flame.svg")
RATE = 500


def main() -> None:
    """Records and says where the graph is."""
    arguments = _arguments()
    world = open_bundles(WorldSize(items=arguments.items))
    config = world_config(world, arguments.ranker)
    target = ROOT / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    record = [str(Path(sys.executable).with_name("py-spy")), "record", "--rate", str(RATE), "--output", str(target)]
    record += ["--native"] if arguments.native else []
    answering = [sys.executable, "-m", "tests.bench.serving_replica", "last", str(config), str(world.size.users)]
    done = subprocess.run(
        [*record, "--", *answering, str(arguments.seconds)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode or not target.is_file():
        sys.exit("py-spy cannot look at the process: it needs root, or a kernel.yama.ptrace_scope of 0 or 1")
    print(f"written to {REPORT}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--ranker", choices=(NEURAL, TREES), default=NEURAL)
    parser.add_argument("--native", action="store_true", help="frames of native code too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
