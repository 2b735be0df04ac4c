"""Memory of the neural ranker's training with rows several times the object store: mapped files against a stream.

    python tests/bench/ranker_streaming.py mapped
    python tests/bench/ranker_streaming.py streamed

Prints the peak of resident memory by process, split into what is the process's own (anonymous) and what it shares:
mapped files and the object store.
"""

import argparse
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import ray

from training.config import NeuralRankerSettings
from training.jobs.neural_ranker import fit_neural_ranker

ROWS, WIDTH, PER_REQUEST = 400_000, 285, 20
STORE_MB = 96
Peaks = dict[str, tuple[int, int]]


def write_rows(folder: Path, rows: int) -> int:
    """Rows as the pipeline leaves them, written block by block; returns their bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, 20_000):
        features[start : start + 20_000] = rng.normal(size=(min(20_000, rows - start), WIDTH))
    grade = np.digitize(features[:, 0], [0.5, 1.5]).astype(np.int8)
    np.save(folder / "grade.npy", grade)
    np.save(folder / "group_sizes.npy", np.full(rows // PER_REQUEST, PER_REQUEST, np.int32))
    features.flush()
    return int(features.nbytes)


@contextmanager
def watched(peaks: Peaks) -> Iterator[None]:
    """Samples this process and its descendants while the block runs."""
    ended, me = threading.Event(), psutil.Process()

    def sample() -> None:
        while not ended.wait(0.3):
            now: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            for process in [me, *me.children(recursive=True)]:
                try:
                    memory, name = process.memory_info(), kind(process, me)
                except psutil.Error:
                    continue
                now[name][0] += memory.rss - memory.shared
                now[name][1] = max(now[name][1], memory.shared)
            for name, (own, shared) in now.items():
                before = peaks.get(name, (0, 0))
                peaks[name] = max(before[0], own), max(before[1], shared)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kind(process: psutil.Process, me: psutil.Process) -> str:
    """What a process is here: the driver, the worker that trains, or the rest of Ray."""
    if process.pid == me.pid:
        return "driver"
    return "training worker" if "RayTrainWorker" in " ".join(process.cmdline()) else "Ray's other processes"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["mapped", "streamed"])
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    settings = NeuralRankerSettings(model="neural", epochs=1, batch_requests=128, streaming=arguments.how == "streamed")
    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=STORE_MB * 2**20)
    peaks: Peaks = {}
    with tempfile.TemporaryDirectory(prefix="ranker-") as folder:
        size = write_rows(Path(folder) / "data", arguments.rows)
        print(f"{arguments.how}: {size / 2**20:.0f} MiB of rows, an object store of {STORE_MB} MiB", flush=True)
        started = time.monotonic()
        with watched(peaks):
            fit_neural_ranker(Path(folder) / "data", settings, 1, Path(folder) / "runs", progress=print)
    for name, (own, shared) in sorted(peaks.items()):
        print(f"{name:24} own {own / 2**20:6.0f} MiB   shared {shared / 2**20:6.0f} MiB")
    print(f"{time.monotonic() - started:.0f} s")
    ray.shutdown()


if __name__ == "__main__":
    main()
