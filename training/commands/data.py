"""`sieve data`: simulate, import, validate, versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.config import load_config
from serving.errors import DataError

if TYPE_CHECKING:
    from training.data.check import LakeCheck
    from training.data.signal import Side, SignalReport
    from training.data.tables import Lake
    from training.data.validate import IngestReport

app = typer.Typer(no_args_is_help=True, help="Tables: simulate, import, validate, versions.")
import_app = typer.Typer(no_args_is_help=True, help="Bring real data into the lake.")
app.add_typer(import_app, name="import")


@app.command()
def simulate(
    context: typer.Context,
    users: Annotated[int, typer.Option(help="users of the world")] = 10_000,
    items: Annotated[int, typer.Option(help="films of the world")] = 2_000,
    days: Annotated[int, typer.Option(help="days of history")] = 120,
    seed: Annotated[int, typer.Option(help="the same seed makes the same world")] = 7,
    start: Annotated[
        str | None, typer.Option(help="first day (UTC); without it the history ends today, so that it can be served")
    ] = None,
    sessions_per_day: Annotated[float, typer.Option(help="mean visits of a user")] = 0.3,
) -> None:
    """Simulates StreamFlix, a film service, into an empty lake."""
    from datetime import UTC, datetime, timedelta

    from rich.progress import Progress

    from training.simulate.batch import simulate as simulate_batch
    from training.simulate.world import WorldSettings

    first = start or str(datetime.now(UTC).date() - timedelta(days=days))
    settings = WorldSettings(
        users=users, items=items, days=days, start=first, seed=seed, sessions_per_day=sessions_per_day
    )
    with Progress(transient=True) as bar:
        task = bar.add_task("simulating", total=days)
        report = simulate_batch(
            _lake(context), settings, lambda done, total, rows: bar.update(task, completed=done, total=total)
        )
    for table, rows in report.rows.items():
        print(f"{table:12} {rows:>12,} rows")
    print(f"{report.seconds:.1f} s, {report.events_per_s:,.0f} impressions and events per second")


@import_app.command("movielens")
def import_movielens(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="folder with movies and ratings, CSV or Parquet")],
) -> None:
    """Imports a MovieLens data set."""
    from training.data.movielens import import_movielens as read_movielens

    for report in read_movielens(_lake(context), folder).tables:
        _print_ingest(report)


@import_app.command("table")
def import_table(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="CSV or Parquet files")],
    table: Annotated[str, typer.Option(help="items, users, impressions or events")],
    mapping: Annotated[Path, typer.Option(help="YAML that maps the files' columns to the table's")],
) -> None:
    """Imports CSV or Parquet files into one table by a column mapping."""
    from training.data.mapping import load_mapping
    from training.data.sources import import_files

    _print_ingest(import_files(_lake(context), load_mapping(mapping, table), files))


@app.command()
def validate(
    context: typer.Context,
    acknowledge: Annotated[
        list[str] | None, typer.Option(metavar="TABLE.COLUMN", help="accept this alarm as it stands; may be repeated")
    ] = None,
) -> None:
    """Checks all tables day by day, reports the signal, and fails while an alarm stands."""
    from training.data.alarms import acknowledge as accept
    from training.data.alarms import alarms, raise_if_alarmed
    from training.data.check import check_lake
    from training.data.signal import signal_report

    lake = _existing_lake(context)
    check = check_lake(lake)
    for name in acknowledge or []:
        for alarm in accept(lake, name):
            print(f"accepted {alarm}")
    _print_check(check)
    if not any(alarm.kind == "schema" for alarm in alarms(lake)):
        _print_signal(signal_report(lake))
    raise_if_alarmed(lake)
    print("no alarm stands")


@app.command()
def versions(context: typer.Context) -> None:
    """Lists every version of every table, newest first."""
    from rich.table import Table

    lake = _existing_lake(context)
    table = Table("table", "version", "rows", "rows added", "time (UTC)", "operation")
    for name in lake.versions():
        history = lake.history(name)
        totals = [sum(entry["rows_added"] for entry in history[place:]) for place in range(len(history))]
        for entry, rows in zip(history, totals, strict=True):
            when = entry["time"].strftime("%Y-%m-%d %H:%M:%S")
            table.add_row(
                name, str(entry["version"]), f"{rows:,}", f"{entry['rows_added']:,}", when, entry["operation"]
            )
    _print(table)


def _lake(context: typer.Context) -> "Lake":
    from training.data.tables import open_lake

    return open_lake(load_config(context.obj))


def _existing_lake(context: typer.Context) -> "Lake":
    lake = _lake(context)
    if not lake.versions():
        raise DataError(
            f"there are no tables in {lake.root}", ["run `sieve data simulate` or `sieve data import` first"]
        )
    return lake


def _print_ingest(report: "IngestReport") -> None:
    parts = [f"{report.accepted:,} accepted"]
    if report.duplicates:
        parts.append(f"{report.duplicates:,} there already")
    if report.quarantined:
        parts.append(f"{report.quarantined:,} quarantined")
    print(f"{report.table}: {', '.join(parts)}")
    for reason, count in report.reasons.items():
        print(f"  {count:>8,} {reason}, e.g. {report.examples[reason][:200]}")


def _print_check(check: "LakeCheck") -> None:
    from rich.table import Table

    overview = Table("table", "rows", "days", "first day", "last day")
    for name, counts in check.tables.items():
        days = [str(day) for day in (*counts.days[:1], *counts.days[-1:])] or ["", ""]
        overview.add_row(name, f"{counts.total:,}", str(len(counts.days)), *days)
    _print(overview)
    for name, counts in check.tables.items():
        nulls = {column: rows.sum() / max(counts.total, 1) for column, rows in counts.nulls.items() if rows.any()}
        _print_line(f"nulls in {name}", [f"{column} {share:.1%}" for column, share in nulls.items()])
        for column in dict.fromkeys(column for column, _ in counts.valued):
            filled = max(counts.total - int(counts.nulls[column].sum()), 1)
            shares = {v: rows.sum() / filled for (c, v), rows in counts.valued.items() if c == column and rows.any()}
            _print_line(f"{name}.{column}", [f"{value} {share:.1%}" for value, share in shares.items()])
        broken = {reason: int(rows.sum()) for reason, rows in counts.broken.items() if rows.any()}
        _print_line(f"against the rules in {name}", [f"{rows:,} {reason}" for reason, rows in broken.items()])


def _print_line(head: str, parts: list[str]) -> None:
    if parts:
        print(f"{head}: {', '.join(parts)}")


def _print_signal(report: "SignalReport") -> None:
    from rich.table import Table

    from training.data.signal import ENOUGH

    table = Table("signal", "known", "median interactions", f"below {ENOUGH}", "cold (none)")
    for name, side in (("users", report.users), ("items", report.items)):
        table.add_row(name, *_side_cells(side))
    _print(table)
    verdict = "enough" if report.enough else f"little: the median user and item should have {ENOUGH} each"
    print(f"interactions: {report.interactions:,} ({verdict})")
    print(f"clicked but not completed: {_share(report.clicked_not_completed)}")
    correlation = report.click_completion_correlation
    told = "not known" if correlation is None else f"{correlation:+.2f}"
    print(f"rank correlation of items' click rate and completion rate: {told}")


def _side_cells(side: "Side") -> list[str]:
    return [f"{side.count:,}", f"{side.median:g}", f"{side.below_ten_share:.1%}", f"{side.cold_share:.1%}"]


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"


def _print(table: object) -> None:
    from rich.console import Console

    Console().print(table)
