"""`sieve features`: registers the definitions, materialises them, lists them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from serving.config import load_config
from serving.errors import ConfigError
from serving.features.spec import FeatureSet, film_features

app = typer.Typer(no_args_is_help=True, help="Feature definitions, snapshots, the online store and the item table.")


@app.command()
def apply(
    context: typer.Context,
    repository: Annotated[Path | None, typer.Option(help="folder of Feast definitions")] = None,
) -> None:
    """Registers the feature definitions with Feast, in the paths of sieve.yaml."""
    from training.features.repository import REPOSITORY, apply_definitions, check_services

    config = load_config(context.obj)
    for name in apply_definitions(config, repository or REPOSITORY):
        typer.echo(name)
    check_services(config, film_features(config.vocabulary))


@app.command()
def materialize(
    context: typer.Context,
    at: Annotated[
        str | None, typer.Option(help="the time to serve from, ISO 8601; default: now, or the data's end")
    ] = None,
) -> None:
    """Builds missing snapshots, fills the online store and publishes the item table."""
    from training.data.tables import open_lake
    from training.features import materialize as work

    config = load_config(context.obj)
    at_us = None if at is None else parse_time_us(at)
    report = work.materialize(config, open_lake(config).connect(), at_us)
    typer.echo(
        f"snapshot {report.snapshot}: {report.users} users, {report.histories} histories, {report.items} items; "
        f"{report.snapshots.built} snapshot files built, {report.snapshots.kept} kept; {report.seconds:.1f} s"
    )
    typer.echo(f"item table {report.item_table.name}")


@app.command("list")
def list_features(
    context: typer.Context,
    markdown: Annotated[bool, typer.Option("--markdown", help="as a Markdown table")] = False,
) -> None:
    """Lists every feature in the order of the ranker's matrix."""
    config = load_config(context.obj)
    features = film_features(config.vocabulary)
    if markdown:
        typer.echo(markdown_table(features))
        return
    for name in features.names:
        typer.echo(name)


def markdown_table(features: FeatureSet) -> str:
    """A Markdown table of all features: view, name, what it says, default."""
    lines = ["| view | feature | what it says | default |", "|---|---|---|---|"]
    for view, columns in features.views.items():
        lines += [f"| {view} | `{f.name}` | {f.description} | {f.default:g} |" for f in columns]
    return "\n".join(lines)


def parse_time_us(text: str) -> int:
    """Microseconds of an ISO 8601 time; without a zone it is UTC.

    Raises:
        ConfigError: the text is no time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--at {text!r} is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
