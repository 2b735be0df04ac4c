"""A column mapping: how the columns of someone's files become the columns of a declared table."""

import re
from pathlib import Path
from typing import Literal
from zoneinfo import available_timezones

import duckdb
import pyarrow as pa
import yaml
from pydantic import Field

from serving.config import Section, parse_section
from serving.errors import ConfigError, DataError
from training.data.schemas import TABLES, TableSchema

_TEMPLATE_FIELD = re.compile(r"\{([^{}]+)\}")

_CLOCK = {"items": "available_at", "users": "created_at", "impressions": "event_time", "events": "event_time"}
"""The column that `ingested_at` is copied from where a mapping does not give it."""


class TimeFormat(Section):
    """How a time is written: a number of `unit`s since 1970, or text in `format` (None: ISO 8601) of a `zone`."""

    unit: Literal["s", "ms", "us", "ns"] | None = None
    format: str | None = None
    zone: str = Field(default="UTC", description="time zone of times that name none")


class CsvFormat(Section):
    """How the CSV files are written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', max_length=1)
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"


class Mapping(Section):
    """One table's mapping; a column of the table that nothing maps is null.

    Every column of the table comes from at most one of `columns`, `templates` and `constants`. `ingested_at`
    is taken from the row's own time unless it is mapped, so that history is as old as it says.
    """

    table: Literal["items", "users", "impressions", "events"]
    columns: dict[str, str] = Field(default={}, description="column of the table: column of the file")
    templates: dict[str, str] = Field(default={}, description="column of the table: text with {file columns} in it")
    constants: dict[str, str | int | float | list[str]] = Field(
        default={}, description="column of the table: one value for all rows"
    )
    times: dict[str, TimeFormat] = Field(default={}, description="time column of the table: how the file writes it")
    lists: dict[str, str] = Field(default={}, description="list column of the table: what separates its entries")
    values: dict[str, dict[str, str | None]] = Field(
        default={}, description="column of the table: value of the file to value of the table (null drops it)"
    )
    csv: CsvFormat = CsvFormat()

    @property
    def declared(self) -> TableSchema:
        """The declared table."""
        return TABLES[self.table]

    @property
    def source_columns(self) -> list[str]:
        """Every column of the file that is used, in order of first use."""
        used = [*self.columns.values()]
        used += [name for text in self.templates.values() for name in _TEMPLATE_FIELD.findall(text)]
        return list(dict.fromkeys(used))

    def problems(self) -> list[str]:
        """What is wrong with the mapping in itself, one line each."""
        declared = self.declared.arrow
        places = ("columns", "templates", "constants", "times", "lists", "values")
        found = [
            f"{place}.{name}: table {self.table} has no column {name}"
            for place in places
            for name in getattr(self, place)
            if name not in declared.names
        ]
        given = [*self.columns, *self.templates, *self.constants]
        found += [f"{name}: mapped more than once" for name in sorted({n for n in given if given.count(n) > 1})]
        missing = sorted(self.declared.required - set(given) - {"ingested_at"})
        found += [f"{name}: required by table {self.table}, not mapped" for name in missing]
        for name in (n for n in self.times if n in declared.names):
            if not pa.types.is_timestamp(declared.field(name).type):
                found.append(f"times.{name}: not a time column")
        for name in (n for n in self.lists if n in declared.names):
            if not pa.types.is_list(declared.field(name).type):
                found.append(f"lists.{name}: not a list column")
        found += [f"constants.{name}: {what}" for name in self.constants for what in self._constant_problems(name)]
        found += [
            f"times.{name}: no time zone {style.zone}" for name, style in self.times.items() if not _is_zone(style.zone)
        ]
        return found

    def _constant_problems(self, name: str) -> list[str]:
        if name not in self.declared.arrow.names:
            return []
        kind = self.declared.arrow.field(name).type
        try:
            duckdb.execute(f"SELECT {_constant(self.constants[name], kind)}")
        except duckdb.Error:
            return [f"{self.constants[name]!r} is not a {_sql_type(kind)}"]
        return []

    def select_sql(self, source: dict[str, str], relation: str) -> str:
        """SQL over a relation's rows that yields the declared columns, `_problems` and `_row`.

        A value that cannot be converted becomes null and a problem `column: not ...`.

        Args:
            source: the relation's columns with their DuckDB types.
            relation: what to select from.

        Raises:
            DataError: the mapping uses columns that the file does not have; all of them are named.
        """
        unknown = [name for name in self.source_columns if name not in source]
        if unknown:
            problems = [*(f"there is no column {name}" for name in unknown), f"there are {', '.join(source)}"]
            raise DataError("the mapping names columns that the file does not have", problems)
        names = self.declared.arrow.names
        converted = {name: self._convert(name, source) for name in names}
        if "ingested_at" not in {*self.columns, *self.templates, *self.constants}:
            converted["ingested_at"] = converted[_CLOCK[self.table]]
        checks = ", ".join(
            f"CASE WHEN {converted[name]} IS NULL AND {self._text(name)} <> '' "
            f"THEN {_literal(self._complaint(name))} END"
            for name in names
            if name in self.columns and not pa.types.is_string(self.declared.arrow.field(name).type)
        )
        columns = ", ".join(f'{converted[name]} AS "{name}"' for name in names)
        row = ", ".join(f"{_identifier(name)} := {_identifier(name)}" for name in source)
        return (
            f"SELECT {columns}, list_filter([{checks}]::VARCHAR[], lambda problem: problem IS NOT NULL) AS _problems, "
            f"CASE WHEN len(_problems) > 0 THEN to_json(struct_pack({row}))::VARCHAR END AS _row FROM {relation}"
        )

    def _convert(self, name: str, source: dict[str, str]) -> str:
        kind = self.declared.arrow.field(name).type
        if name in self.constants:
            return _constant(self.constants[name], kind)
        if name in self.templates:
            return _template(self.templates[name])
        if name not in self.columns:
            return f"NULL::{_sql_type(kind)}"
        if pa.types.is_timestamp(kind):
            return self._time(name, source[self.columns[name]])
        if pa.types.is_list(kind):
            return self._list(name, source)
        return f"TRY_CAST({self._text(name)} AS {_sql_type(kind)})"

    def _text(self, name: str) -> str:
        """The file's value as text, after the value map; empty text of a CSV is null."""
        column = f"nullif(trim({_identifier(self.columns[name])}::VARCHAR), '')"
        replaced = "".join(
            f" WHEN {_literal(old)} THEN {'NULL' if new is None else _literal(new)}"
            for old, new in self.values.get(name, {}).items()
        )
        return f"(CASE {column}{replaced} ELSE {column} END)" if replaced else column

    def _time(self, name: str, found: str) -> str:
        style = self.times.get(name, TimeFormat())
        text = self._text(name)
        if style.unit is not None:
            micros = {"s": "* 1000000", "ms": "* 1000", "us": "", "ns": "// 1000"}[style.unit]
            number = f"TRY_CAST({text} AS DECIMAL(28, 6))"
            return f"make_timestamptz(TRY_CAST(floor({number} {micros}) AS BIGINT))"
        if found.startswith("TIMESTAMP WITH TIME ZONE"):
            return f"TRY_CAST({_identifier(self.columns[name])} AS TIMESTAMPTZ)"
        if style.format is not None:
            return f"timezone({_literal(style.zone)}, try_strptime({text}, {_literal(style.format)}))"
        if style.zone == "UTC":
            return f"TRY_CAST({text} AS TIMESTAMPTZ)"
        return f"timezone({_literal(style.zone)}, TRY_CAST({text} AS TIMESTAMP))"

    def _list(self, name: str, source: dict[str, str]) -> str:
        if source[self.columns[name]].endswith("[]"):
            return f"{_identifier(self.columns[name])}::VARCHAR[]"
        text = self._text(name)
        parts = f"string_split({text}, {_literal(self.lists.get(name, '|'))})"
        cleaned = f"list_transform({parts}, lambda part: trim(part))"
        return f"coalesce(list_filter({cleaned}, lambda part: part <> ''), []::VARCHAR[])"

    def _complaint(self, name: str) -> str:
        kind = self.declared.arrow.field(name).type
        if not pa.types.is_timestamp(kind):
            return f"{name}: not a {_sql_type(kind)}"
        style = self.times.get(name, TimeFormat())
        written = f"{style.unit} since 1970" if style.unit else style.format or "ISO 8601"
        return f"{name}: not a time ({written})"


def load_mapping(path: Path, table: str | None = None) -> Mapping:
    """Reads and checks a mapping file; every mistake is reported at once.

    Args:
        path: the YAML file.
        table: the table that it must be for (None: any); a mapping may leave `table` to this.

    Raises:
        ConfigError: missing, no YAML, breaks the schema, names unknown columns, or lacks required ones.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no mapping at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML", [str(error).replace("\n", " ")]) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping", [f"it holds a {type(document).__name__}"])
    if table is not None and document.setdefault("table", table) != table:
        raise ConfigError(f"{path} maps table {document['table']}, not {table}")
    mapping = parse_section(Mapping, document, where=str(path))
    problems = mapping.problems()
    if problems:
        raise ConfigError(f"{path} has {len(problems)} problem(s)", problems)
    return mapping


def _is_zone(name: str) -> bool:
    return name in available_timezones()


def _template(text: str) -> str:
    parts = _TEMPLATE_FIELD.split(text)
    pieces = [_literal(part) if i % 2 == 0 else f"{_identifier(part)}::VARCHAR" for i, part in enumerate(parts)]
    return "(" + " || ".join(pieces) + ")"


def _constant(value: str | int | float | list[str], kind: pa.DataType) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_literal(entry) for entry in value) + f"]::{_sql_type(kind)}"
    return f"CAST({_literal(str(value))} AS {_sql_type(kind)})"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return "VARCHAR[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    return {pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.float64(): "DOUBLE"}[kind]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
