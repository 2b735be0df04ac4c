"""Alarms: breaks of a whole column or table. While one stands, training does not start."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from serving.durable import write_json
from serving.errors import DataError
from training.data.tables import Lake

FILE = "alarms.json"
WHOLE_TABLE = "*"


@dataclass(frozen=True, order=True)
class Alarm:
    """A column (or `*`, the table) that broke on some days.

    `kind` is `schema`, `nulls`, `values`, `duplicates`, `quarantine` or `volume`; `since` and `until` are the
    first and last bad day as ISO dates.
    """

    table: str
    column: str
    kind: str
    since: str
    until: str
    detail: str

    @property
    def name(self) -> str:
        """`table.column`, the name by which it is acknowledged."""
        return f"{self.table}.{self.column}"

    def __str__(self) -> str:
        days = f"since {self.since}" if self.until <= self.since else f"since {self.since} until {self.until}"
        return f"{self.name} ({self.kind}) {days}: {self.detail}"


def alarms(lake: Lake) -> list[Alarm]:
    """The standing alarms, those that a person acknowledged left out; empty if none were ever raised."""
    document = _load(lake)
    return [alarm for alarm in document["alarms"] if not _acknowledged(alarm, document["acknowledged"])]


def raise_if_alarmed(lake: Lake) -> None:
    """Stops whoever is about to train on this lake.

    Raises:
        DataError: at least one alarm stands; all of them are listed.
    """
    standing = alarms(lake)
    if standing:
        hint = "fix the data, or accept it with `sieve data validate --acknowledge TABLE.COLUMN`"
        raise DataError(f"{len(standing)} data alarm(s) stop training; {hint}", [str(a) for a in standing])


def add_alarms(lake: Lake, found: Iterable[Alarm]) -> None:
    """Adds alarms; one of the same table, column and kind is widened to cover both spans of days."""
    document = _load(lake)
    by_break = {(a.table, a.column, a.kind): a for a in document["alarms"]}
    for alarm in found:
        known = by_break.get((alarm.table, alarm.column, alarm.kind), alarm)
        by_break[(alarm.table, alarm.column, alarm.kind)] = replace(
            alarm, since=min(alarm.since, known.since), until=max(alarm.until, known.until)
        )
    _save(lake, sorted(by_break.values()), document["acknowledged"])


def replace_alarms(lake: Lake, found: Iterable[Alarm]) -> None:
    """Makes these the alarms, as the result of a check of the whole lake; acknowledgements are kept."""
    _save(lake, sorted(found), _load(lake)["acknowledged"])


def acknowledge(lake: Lake, name: str) -> list[Alarm]:
    """Accepts the standing alarms of `table.column` up to their last bad day, and returns them.

    The same break on a later day raises the alarm again.

    Raises:
        DataError: no alarm of that name stands.
    """
    document = _load(lake)
    accepted = [alarm for alarm in alarms(lake) if alarm.name == name]
    if not accepted:
        standing = [alarm.name for alarm in alarms(lake)]
        raise DataError(f"no alarm named {name} stands", [f"standing: {', '.join(standing) or 'none'}"])
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entries = [{**asdict(alarm), "acknowledged_at": at} for alarm in accepted]
    _save(lake, document["alarms"], [*document["acknowledged"], *entries])
    return accepted


def _acknowledged(alarm: Alarm, entries: Sequence[dict[str, Any]]) -> bool:
    return any(
        (e["table"], e["column"], e["kind"]) == (alarm.table, alarm.column, alarm.kind)
        and e["since"] <= alarm.since
        and alarm.until <= e["until"]
        for e in entries
    )


def _load(lake: Lake) -> dict[str, Any]:
    path = lake.root / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            "alarms": [Alarm(**entry) for entry in document["alarms"]],
            "acknowledged": list(document["acknowledged"]),
        }
    except FileNotFoundError:
        return {"alarms": [], "acknowledged": []}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged; delete it and run `sieve data validate`", [str(error)]) from None


def _save(lake: Lake, found: Sequence[Alarm], acknowledged: Sequence[dict[str, Any]]) -> None:
    lake.root.mkdir(parents=True, exist_ok=True)
    document = {"alarms": [asdict(alarm) for alarm in found], "acknowledged": list(acknowledged)}
    write_json(lake.root / FILE, document)
