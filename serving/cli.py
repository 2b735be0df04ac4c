"""The `sieve` command: collects what is installed from the entry point group `sieve.commands`."""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import SetupError, SieveError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", "-c", help="the configuration file")] = Path("sieve.yaml"),
) -> None:
    """Sieve: recommendations, search, fraud and moderation decisions served from one core."""
    context.obj = config


def main() -> None:
    """Runs the command line; a known error is printed without a traceback and exits with 1 (set-up: 2)."""
    for point in sorted(entry_points(group="sieve.commands"), key=lambda p: p.name):
        command = point.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=point.name)
    try:
        app()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SieveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
