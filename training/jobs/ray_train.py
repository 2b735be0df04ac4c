"""Runs a training loop on Ray Train: N workers, a checkpoint each epoch, and resuming after a kill."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from serving.errors import DependencyError

OBJECT_STORE_BYTES = 128 * 2**20
"""Workers read their data from files; Ray's own default would take a third of the memory."""
PROGRESS_FILE = "progress.jsonl"
SHARDS = "shards"
SHUFFLED_BATCHES = 8
"""Batches that a stream is shuffled over; shards hold their rows in a random order already."""
READER_CPUS = 0.5
# Each of these is a process or a poll beside the workers that a job of minutes on one machine does without.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP threads that spin at barriers are several times slower as soon as another process wants a core."""


class RayReporter:
    """The reporter of a loop that runs in a Ray Train worker."""

    def __init__(self, progress: Path) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self._progress = progress

    def resume(self) -> Path | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else Path(checkpoint.to_directory())

    def wrap(self, model: nn.Module) -> nn.Module:
        import ray.train.torch

        return ray.train.torch.prepare_model(model)

    def batches(self, size: int, seed: int) -> Iterator[pa.Table]:
        import ray.train

        shard = ray.train.get_dataset_shard(SHARDS)
        assert shard is not None, "the run was started without a stream"
        yield from shard.iter_batches(
            batch_size=size,
            batch_format="pyarrow",
            local_shuffle_buffer_size=SHUFFLED_BATCHES * size,
            local_shuffle_seed=seed,
        )

    def report(self, epoch: int, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        import ray.train

        if self.rank != 0:
            ray.train.report(metrics, checkpoint_dir_name=f"epoch-{epoch:04d}")
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"epoch-{epoch:04d}")
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")


Loop = Callable[[dict[str, Any], RayReporter], None]


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """A local Ray for as long as the block runs; the one that is already there is used and left alone.

    Starting Ray takes seconds: hold one session around all training jobs of a pipeline.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


def run_training(
    loop: Loop,
    config: dict[str, Any],
    name: str,
    storage: Path,
    workers: int,
    progress: Callable[[str], None],
    stream: Sequence[str] = (),
) -> Path:
    """Runs `loop` in `workers` processes and gives the folder of its last checkpoint.

    `stream` are Parquet files whose rows Ray Data deals out to the workers: `loop` then reads them from
    `RayReporter.batches`, and memory holds a few files at a time.

    `config` must be plain JSON; `config["data"]` is a folder that every worker can read, `config["threads"]` is
    set here. A run is known by `name`, its config, its data and its number of workers: calling this again after
    a kill continues at the last checkpoint, and calling it after the end returns at once. A checkpoint of a run
    with other settings or other data is never used. `progress` gets one line for each epoch, in the driver.

    Raises:
        DependencyError: training failed in a worker; the message holds the worker's own.
    """
    run = run_name(name, config, workers)
    storage = storage.resolve()
    finished = storage / run / "finished"
    if finished.exists():
        return finished
    with ray_session():
        cpus = _cpus_per_worker(workers, bool(stream))
        config = {**config, "threads": max(int(cpus), 1), "progress": str(storage / run / PROGRESS_FILE)}
        checkpoint = _fit(loop, config, run, storage, workers, cpus, progress, stream)
    draft = storage / run / "finished.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(checkpoint, draft)
    draft.rename(finished)
    return finished


def _cpus_per_worker(workers: int, streaming: bool) -> float:
    """The share of the session's CPUs. A stream's own tasks keep a quarter and one CPU at least: the one that lists
    the files asks for a whole one, and without it the workers would wait for ever."""
    import ray

    resources: Callable[[], dict[str, float]] = ray.cluster_resources
    cpus = resources().get("CPU", 1)
    if streaming:
        return max(cpus - max(cpus / 4, 1), 0) / workers
    return max(cpus // workers, 1)


def _run_in_worker(config: dict[str, Any]) -> None:
    """Ray Train's entry point."""
    loop: Loop = config.pop("loop")
    loop(config, RayReporter(Path(config.pop("progress"))))


def _fit(
    loop: Loop,
    config: dict[str, Any],
    run: str,
    storage: Path,
    workers: int,
    cpus: float,
    progress: Callable[[str], None],
    stream: Sequence[str],
) -> Path:
    import ray.train
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    options: dict[str, Any] = {
        "name": run,
        "storage_path": str(storage),
        "checkpoint_config": ray.train.CheckpointConfig(num_to_keep=1),
        "worker_runtime_env": {"env_vars": WORKER_ENVIRONMENT},
    }
    trainer = TorchTrainer(
        _run_in_worker,
        train_loop_config={**config, "loop": loop},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": cpus}),
        run_config=ray.train.RunConfig(**options),
        **_stream_options(stream),
    )
    with _followed(Path(config["progress"]), run.rsplit("-", 1)[0], progress):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise DependencyError(f"training of {run} failed: {error}") from error
    if result.checkpoint is None:
        raise DependencyError(f"training of {run} ended without a checkpoint")
    return Path(result.checkpoint.path)


def _stream_options(files: Sequence[str]) -> dict[str, Any]:
    """What the trainer is told of a stream: its files in order, so that equal seeds give equal epochs."""
    if not files:
        return {}
    import ray.data
    import ray.train

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_parquet([*files], num_cpus=READER_CPUS, override_num_blocks=len(files))
    in_order = ray.data.ExecutionOptions(preserve_order=True)
    return {"datasets": {SHARDS: dataset}, "dataset_config": ray.train.DataConfig(execution_options=in_order)}


@contextlib.contextmanager
def _followed(path: Path, name: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hands on each line that workers add to the progress file while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    ended = threading.Event()

    def follow() -> None:
        with path.open(encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            while True:
                last_look = ended.wait(0.2)
                for line in file:
                    progress(f"{name}: {_epoch_line(json.loads(line))}")
                if last_look:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _epoch_line(metrics: dict[str, float]) -> str:
    rest = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if key != "epoch")
    return f"epoch {metrics['epoch']}, {rest}"


def run_name(name: str, config: dict[str, Any], workers: int) -> str:
    """The folder of a run: `name` and a hash of its settings, its workers, and each data file's size and time."""
    folder = Path(config["data"])
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    document = json.dumps([config, workers, files], sort_keys=True)
    return f"{name}-{hashlib.blake2b(document.encode(), digest_size=6).hexdigest()}"
