"""Reports: rows of measured numbers as a table for people and as JSON for everything else."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from serving.durable import write_json


@dataclass(frozen=True)
class Row:
    """One measured number: its unit, the target where there is one, and how it was measured."""

    name: str
    value: float
    unit: str = ""
    target: str | None = None
    met: bool | None = None
    """None where there is no target; a value that is NaN never meets one."""
    how: str = ""

    def __post_init__(self) -> None:
        # numpy's scalars compare to numpy's booleans, which JSON does not know
        object.__setattr__(self, "value", float(self.value))
        if self.met is not None:
            object.__setattr__(self, "met", bool(self.met) and not math.isnan(self.value))


def at_least(name: str, value: float, target: float, unit: str = "", how: str = "") -> Row:
    """A row whose value should be `target` or more."""
    return Row(name, value, unit, f"≥ {target:g}", value >= target, how)


def at_most(name: str, value: float, target: float, unit: str = "", how: str = "") -> Row:
    """A row whose value should be `target` or less."""
    return Row(name, value, unit, f"≤ {target:g}", value <= target, how)


def report_table(title: str, rows: Sequence[Row]) -> Table:
    """The rows as a table for the terminal."""
    table = Table("name", "value", "unit", "target", "met", "how", title=title)
    marks = {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}
    for row in rows:
        table.add_row(
            escape(row.name), f"{row.value:,.4g}", row.unit, row.target or "", marks[row.met], escape(row.how)
        )
    return table


def write_report(name: str, rows: Sequence[Row], folder: Path = Path("build/reports")) -> Path:
    """Writes `folder`/NAME.json, a list of rows, whole or not at all; NaN and infinities become null."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json(path, [_document(row) for row in rows])
    return path


def _document(row: Row) -> dict[str, Any]:
    return asdict(row) | {"value": row.value if math.isfinite(row.value) else None}
