"""Memory and start-up of a replica, each in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.serving_bundle import ROOT, BundleWorld
from training.evaluate.report import Row, at_most

GIB, MIB = 2**30, 2**20
STARTS = 3
FLAT_MIB = 8


def measure_memory(world: BundleWorld, config: Path, requests: int) -> list[Row]:
    """Private memory with one bundle, over many requests, with a second bundle, and after it is unloaded."""
    seen = ask_replica("memory", config, world.second_bundle().name, world.size.users, requests)
    anon = {step: sizes["RssAnon"] for step, sizes in seen.items()}
    mapped = {step: sizes["RssFile"] for step, sizes in seen.items()}
    how = f"{world.size.items:,} items, verified in the process, {requests:,} requests, without Ray"
    return [
        at_most("private memory of a replica", anon["worn"] / GIB, 0.8, "GiB", how),
        Row("  of which imported code", anon["imported"] / GIB, "GiB", how=how),
        Row("  mapped pages, shared between replicas", mapped["worn"] / GIB, "GiB", how=how),
        at_most(
            "private memory: growth over the requests",
            (anon["worn"] - anon["settled"]) / MIB,
            FLAT_MIB,
            "MiB",
            f"from the 10,000th to the {requests:,}th",
        ),
        at_most("private memory of a further bundle", (anon["second"] - anon["worn"]) / GIB, 0.35, "GiB", how),
        Row("private memory left of it once unloaded", (anon["unloaded"] - anon["worn"]) / MIB, "MiB", how=how),
    ]


def measure_start(world: BundleWorld, config: Path) -> list[Row]:
    """From launching a replica's process to its first answer; the best of a few, the files being in the page cache."""
    runs = [ask_replica("start", config, world.size.users, time.monotonic()) for _ in range(STARTS)]
    best = min(runs, key=lambda run: run["ready"])
    how = f"{world.size.items:,} items, best of {STARTS}, files in the page cache, Ray's own start apart"
    return [
        at_most("a replica is ready after its start", best["ready"], 5, "s", how),
        Row("  interpreter and imports", best["imported"], "s", how=how),
        Row("  bundle verified, opened and warm", best["ready"] - best["imported"], "s", how=how),
        Row("  first answer", best["answered"] - best["ready"], "s", how=how),
    ]


def ask_replica(what: str, *arguments: object) -> Any:
    """What `serving_replica` tells of itself, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.serving_replica", what, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])
