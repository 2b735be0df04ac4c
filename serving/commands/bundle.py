"""`sieve bundle`: which bundles there are, what one holds, and whether it may serve."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.bundles.layout import ANN
from serving.bundles.manifest import Manifest, read_manifest
from serving.bundles.store import BundleStore
from serving.config import load_config
from serving.errors import BundleError

app = typer.Typer(no_args_is_help=True, help="List, show and verify bundles.")

AppOption = Annotated[str, typer.Option("--app", help="the application that the bundle serves")]
VersionArgument = Annotated[str, typer.Argument(help="a version, APP/VERSION, or `latest`")]


@app.command("list")
def list_bundles(context: typer.Context) -> None:
    """Lists published bundles, newest first, with what their manifests say."""
    store = _store(context)
    table = Table("application", "version", "items", "features", "size", "metrics")
    for application in store.apps():
        for version in store.versions(application):
            table.add_row(application, version, *_summary(store.path(application, version)))
    if not table.row_count:
        Console().print(f"no bundles in {store.root}")
        return
    Console().print(table)


@app.command()
def show(context: typer.Context, version: VersionArgument = "latest", app: AppOption = "recommend") -> None:
    """Shows a bundle's manifest: models, data, splits, metrics, software and files."""
    manifest = read_manifest(_directory(context, version, app))
    console = Console()
    console.print(f"[bold]{manifest.app}/{manifest.version}[/bold]")
    console.print(_facts(manifest))
    console.print(_models(manifest))
    console.print(_files(manifest))


@app.command()
def verify(context: typer.Context, version: VersionArgument = "latest", app: AppOption = "recommend") -> None:
    """Recomputes all that can be of a bundle; lists every problem and exits with 1 where there is one."""
    # Heavy: the ONNX runtime is loaded only here.
    from serving.bundles.verify import verify_bundle

    directory = _directory(context, version, app)
    problems = verify_bundle(directory)
    console = Console()
    if not problems:
        console.print(f"{app}/{directory.name} is sound", highlight=False)
        return
    table = Table("file", "problem", title=f"{directory.name}: {len(problems)} problem(s)")
    for problem in problems:
        table.add_row(*map(escape, problem.split(": ", 1)))
    console.print(table)
    raise typer.Exit(1)


def _store(context: typer.Context) -> BundleStore:
    return BundleStore(load_config(context.obj).bundles)


def _directory(context: typer.Context, version: str, application: str) -> Path:
    named_app, _, named_version = version.rpartition("/")
    return _store(context).path(named_app or application, named_version)


def _summary(directory: Path) -> tuple[str, str, str, str]:
    try:
        manifest = read_manifest(directory)
    except BundleError as error:
        return "", "", "", f"[red]{escape(error.problems[0])}[/red]"
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in sorted(manifest.metrics.items())[:3])
    return f"{manifest.items:,}", str(len(manifest.features)), _megabytes(manifest), metrics


def _facts(manifest: Manifest) -> Table:
    versions = ", ".join(f"{table} {version}" for table, version in sorted(manifest.data_versions.items()))
    cuts = ", ".join(f"{name} {_instant(cut)}" for name, cut in sorted(manifest.split.cuts_us.items()))
    facts = {
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "items": f"{manifest.items:,} in {manifest.dimension} dimensions",
        "index": "approximate" if any(f.startswith(f"{ANN}/") for f in manifest.files) else "exact",
        "segments": ", ".join(manifest.segments),
        "data": versions,
        "split": f"{manifest.split.method} {cuts}",
        "software": ", ".join(f"{name} {version}" for name, version in sorted(manifest.software.items())),
        **{name: f"{value:.4f}" for name, value in sorted(manifest.metrics.items())},
    }
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _instant(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _models(manifest: Manifest) -> Table:
    table = Table("model", "file", "inputs", "outputs")
    for name, model in manifest.models.items():
        inputs, outputs = (
            "\n".join(f"{tensor.name} {list(tensor.shape)}".replace("None", "*") for tensor in tensors)
            for tensors in (model.inputs, model.outputs)
        )
        table.add_row(name, model.file, inputs, outputs)
    return table


def _files(manifest: Manifest) -> Table:
    table = Table("file", "bytes", "sha256", title=f"{len(manifest.files)} files, {_megabytes(manifest)}")
    for path, entry in sorted(manifest.files.items()):
        table.add_row(path, f"{entry.bytes:,}", entry.sha256[:12])
    return table


def _megabytes(manifest: Manifest) -> str:
    return f"{sum(entry.bytes for entry in manifest.files.values()) / 1e6:,.1f} MB"
