"""`sieve train`: the training pipelines."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.config import SieveConfig, load_config

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.jobs.judgement import Judgement

TABLE_WIDTH = 120

app = typer.Typer(no_args_is_help=True, help="Train, evaluate, gate and register.")


@app.callback()
def _train() -> None:
    """Train, evaluate, gate and register."""


@app.command()
def recommend(
    context: typer.Context,
    resume: Annotated[bool, typer.Option(help="go on with the newest unfinished run")] = False,
    sweep: Annotated[
        Path | None, typer.Option(help="YAML list of overrides of `training`: each becomes a tracked experiment")
    ] = None,
) -> None:
    """Trains film recommendations: snapshot ... gate, bundle, registry."""
    # Threads that spin while they wait starve each other wherever the processors are shared; read at first import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from training.config import training_config

    config = load_config(context.obj)
    training = training_config(config)
    if sweep is not None:
        if resume:
            raise typer.BadParameter("a sweep cannot be resumed", param_hint="--resume")
        _sweep(config, sweep)
        return
    _train_once(config, training, resume)


def _train_once(config: SieveConfig, training: "TrainingConfig", resume: bool) -> None:
    from training.jobs.draft import APP
    from training.jobs.ray_train import ray_session
    from training.jobs.recommend import GateFailed, RecommendTraining
    from training.jobs.stages import open_run

    run = open_run(config.runs, APP, _settings(config, training), resume)
    job = RecommendTraining(config, training, run, _say)
    with ray_session():
        try:
            version = job.train()
        except GateFailed:
            _print_judgement(job.judgement)
            raise
    _print_judgement(job.judgement)
    print(f"registered {APP}/{version}")


def _sweep(config: SieveConfig, path: Path) -> None:
    """Runs every configuration up to its evaluation and records it; nothing is registered."""
    from training.jobs.ray_train import ray_session
    from training.jobs.recommend import RecommendTraining
    from training.jobs.stages import execute, open_run
    from training.jobs.sweep import read_sweep

    with ray_session():
        for name, training in read_sweep(path, config):
            print(f"experiment {name}")
            run = open_run(config.runs, "recommend-sweep", _settings(config, training), resume=False)
            job = RecommendTraining(config, training, run, _say)
            execute(run, job.learning, _say)
            verdict = "passed" if job.judgement.gate.passed else "failed"
            job.log_experiment(job.judgement, verdict)
            run.finish({"gate": verdict, "experiment": name})
            _print_judgement(job.judgement)


def _settings(config: SieveConfig, training: "TrainingConfig") -> dict[str, Any]:
    shared = config.model_dump(mode="json", include={"vocabulary", "features"})
    return {**shared, "training": training.model_dump(mode="json")}


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _print_judgement(judgement: "Judgement") -> None:
    from rich.console import Console
    from rich.table import Table

    names = ("ndcg@20", "ndcg@10", "recall@50", "hit_rate@10", "coverage@20", "novelty@20")
    table = Table("part", *names, title=f"holdout, {judgement.summary['users']:,} users, as served")
    for part, values in judgement.summary["parts"].items():
        table.add_row(part, *(_interval(values[name]) for name in names))
    slices = Table("slice", "users", "ndcg@20 as served")
    for name, value in judgement.summary["slices"].items():
        slices.add_row(name, f"{value['users']:,}", f"{value['mean']:.4f}")
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(table)
    console.print(slices)
    for check in judgement.gate.checks:
        print(f"  {'passed' if check.passed else 'FAILED'}  {check.text}")


def _interval(value: dict[str, float]) -> str:
    spread = f" ±{(value['high'] - value['low']) / 2:.4f}" if "low" in value else ""
    return f"{value['mean']:.4f}{spread}"
