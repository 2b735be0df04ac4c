"""The `sieve` command: collects what is installed from the entry point group `sieve.commands`."""

import sys
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement

from serving.errors import SetupError, SieveError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", "-c", help="configuration file")] = Path("sieve.yaml"),
) -> None:
    """Sieve: recommendations, search, fraud and moderation decisions served from one core."""
    context.obj = config


def main() -> None:
    """Runs the command line; a known error is printed without a traceback and exits with 1 (set-up: 2)."""
    for point in sorted(entry_points(group="sieve.commands"), key=lambda p: p.name):
        if _is_available(point):
            app.add_typer(point.load(), name=point.name)
    try:
        app()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SieveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _is_available(point: EntryPoint) -> bool:
    """Whether every package of the extras that the command belongs to is installed."""
    requires = (point.dist.requires if point.dist else None) or []
    needed = [Requirement(line) for line in requires]
    return all(
        _is_installed(requirement.name)
        for requirement in needed
        if any(requirement.marker and requirement.marker.evaluate({"extra": extra}) for extra in point.extras)
    )


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
