"""The file that editors write: a list of entries, each time-boxed, read again when it changes.

    - {item: i042, action: pin, position: 0, from: 2026-05-01T00:00:00Z, until: 2026-05-08T00:00:00Z,
       countries: [DE, FR], reason: festival week}
    - {item: i077, action: boost, strength: 1.5, from: ..., until: ..., reason: ...}
    - {item: i013, action: bury, strength: 3, from: ..., until: ..., reason: ...}

JSON is YAML, so either may be written. E entries.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from serving.core.candidates import Mask
from serving.core.query import OpaqueId
from serving.errors import ConfigError

MAX_ENTRIES = 1000
MAX_BYTES = 1_000_000
CHECK_EVERY_S = 1.0
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
MICROSECOND = timedelta(microseconds=1)

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one, where PyYAML was built with it

log = logging.getLogger(__name__)

Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class Entry(BaseModel):
    """One item, what is done with it, when, where and why.

    position: 0-based, of a pin.  strength: standard deviations, of a boost or a bury.  from, until: with a time zone;
    it holds from the first moment until before the last.  countries: none means everywhere.  reason: for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    item: OpaqueId
    action: Literal["pin", "boost", "bury"]
    position: int | None = Field(None, ge=0, le=99)
    strength: float | None = Field(None, gt=0, le=100)
    from_: AwareDatetime = Field(alias="from")
    until: AwareDatetime
    countries: tuple[Country, ...] = Field((), max_length=300)
    reason: str = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        problems = []
        pins = self.action == "pin"
        if (self.position is not None) is not pins:
            problems.append("a pin needs a position" if pins else f"a {self.action} has no position")
        if (self.strength is None) is not pins:
            problems.append("a pin has no strength" if pins else f"a {self.action} needs a strength")
        if self.until <= self.from_:
            problems.append("until is not after from")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def meets(self, other: "Entry") -> bool:
        """Whether there is a time and a country in which both hold."""
        apart = self.countries and other.countries and not set(self.countries) & set(other.countries)
        return not apart and self.from_ < other.until and other.from_ < self.until


_ENTRIES = TypeAdapter(Annotated[list[Entry], Field(max_length=MAX_ENTRIES)])


class EditorialList:
    """The entries as columns.

    items: E ids.  is_pin: bool[E].  value: float64[E], a pin's position, else the strength, below 0 to bury.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.items = [entry.item for entry in entries]
        self.is_pin = np.array([entry.action == "pin" for entry in entries], np.bool_)
        self.value = np.array([_value(entry) for entry in entries], np.float64)
        self._from_us = np.array([_us(entry.from_) for entry in entries], np.int64)
        self._until_us = np.array([_us(entry.until) for entry in entries], np.int64)
        self._everywhere = np.array([not entry.countries for entry in entries], np.bool_)
        named = {country for entry in entries for country in entry.countries}
        self._in_country = {
            country: np.array([not entry.countries or country in entry.countries for entry in entries], np.bool_)
            for country in named
        }

    def holding(self, now_us: int, country: str | None) -> Mask:
        """bool[E]: the entries in force; where no country is known, those that are for all."""
        there = self._in_country.get(country or "", self._everywhere)
        holds: Mask = (self._from_us <= now_us) & (now_us < self._until_us) & there
        return holds


class EditorialFile:
    """A file's newest sound content. A bad new file leaves the old content in force and is warned of once.

    Looked at once a second at most, by a thread that ends when it has looked: no request waits for a disk.
    """

    def __init__(self, path: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Raises: ConfigError: the file is missing or breaks the schema; every problem is listed."""
        self._path = path
        self._clock_s = clock_s
        self._stamp = _stamp(path)
        self._listed = read_entries(path)
        self._next_s = clock_s() + CHECK_EVERY_S
        self._looking = threading.Lock()

    def current(self) -> EditorialList:
        """What is in force; starts a look at the file where the last one is a second ago."""
        now_s = self._clock_s()
        if now_s >= self._next_s and self._looking.acquire(blocking=False):
            self._next_s = now_s + CHECK_EVERY_S
            threading.Thread(target=self._look, name="editorial-file", daemon=True).start()
        return self._listed

    def wait(self) -> None:
        """Returns when no look at the file is under way."""
        with self._looking:
            pass

    def _look(self) -> None:
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._listed = read_entries(self._path)
                log.info("%s: %d entries in force", self._path, len(self._listed.items))
        except ConfigError as error:
            log.warning("the old entries stay in force: %s", error)
        finally:
            self._looking.release()


def read_entries(path: Path) -> EditorialList:
    """Reads and checks a file.

    Raises:
        ConfigError: the file is missing, too large, not YAML, or breaks the schema, or two pins want the same place
            or item at the same time; every problem is listed.
    """
    try:
        entries = _ENTRIES.validate_python(_document(path))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or '(root)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path} has {len(problems)} problem(s)", problems) from None
    if problems := _conflicts(entries):
        raise ConfigError(f"{path} has {len(problems)} problem(s)", problems)
    return EditorialList(entries)


def _document(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path} cannot be read", [f"it has more than {MAX_BYTES} bytes"])
        document = yaml.load(content, Loader=_LOADER)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", [error.strerror or type(error).__name__]) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML", [str(error).replace("\n", " ")]) from None
    return [] if document is None else document


def _conflicts(entries: list[Entry]) -> list[str]:
    problems = []
    claims: dict[tuple[str, object], list[int]] = {}
    for i, entry in enumerate(entries):
        pins = entry.action == "pin"
        wants = [("item", (entry.item, pins)), *([("position", entry.position)] if pins else [])]
        for want in wants:
            earlier = claims.setdefault(want, [])
            problems += [
                f"{i}.{want[0]}: entry {j} has the same {want[0]} at the same time"
                for j in earlier
                if entry.meets(entries[j])
            ]
            earlier.append(i)
    return problems


def _value(entry: Entry) -> float:
    if entry.position is not None:
        return float(entry.position)
    strength = entry.strength or 0.0
    return -strength if entry.action == "bury" else strength


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
