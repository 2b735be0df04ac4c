"""What shapes a StreamFlix world: the same settings are the same world, to the last row."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from serving.durable import write_json
from serving.errors import ConfigError
from training.simulate.clock import DAY_US

FORMAT = 1
MOST_IDS = 9_999_999
MOST_POSITIONS = 200


@dataclass(frozen=True)
class WorldSettings:
    """Size, period and seed of a world.

    Raises:
        ConfigError: values that no world can have, all of them listed.
    """

    users: int = 10_000
    items: int = 2_000
    days: int = 120
    start: str = "2026-01-01"
    """First day of the history, UTC."""
    seed: int = 7
    sessions_per_day: float = 0.3
    """Mean visits of a user in a day; single users vary around it by a log-normal factor."""
    page_length: int = 36
    """Films drawn for a home page; what a user may not see or has seen falls out, so some 20 to 36 are left."""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError(f"a world with {len(problems)} problem(s)", problems)

    @property
    def start_us(self) -> int:
        """Midnight (UTC) that the history starts at, in microseconds since the epoch."""
        return int(datetime.combine(date.fromisoformat(self.start), datetime.min.time(), UTC).timestamp()) * 1_000_000

    @property
    def end_us(self) -> int:
        """Midnight (UTC) that the history ends before."""
        return self.start_us + self.days * DAY_US

    def save(self, path: Path) -> None:
        """Writes the settings as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "WorldSettings":
        """Reads what `save` wrote.

        Raises:
            ConfigError: no such file, not JSON, another format, unknown keys or impossible values.
        """
        document = _read_json(path)
        if document.pop("format", None) != FORMAT:
            raise ConfigError(f"{path} is not a world of format {FORMAT}")
        unknown = sorted(set(document) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"{path} holds unknown settings", unknown)
        return cls(**document)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no world at {path}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON", [str(error)]) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping")
    return document


def _problems(settings: WorldSettings) -> list[str]:
    bounds: dict[str, tuple[float, float]] = {
        "users": (1, MOST_IDS),
        "items": (100, MOST_IDS),
        "days": (1, 9_999),
        "seed": (0, 2**63),
        "sessions_per_day": (1e-6, 5.0),
        "page_length": (10, MOST_POSITIONS),
    }
    problems = []
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        whole = name != "sessions_per_day"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            problems.append(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
        elif not low <= value <= high:
            problems.append(f"{name} must be from {low:g} to {high:g}, not {value}")
    try:
        date.fromisoformat(settings.start)
    except (TypeError, ValueError):
        problems.append(f"start must be a date like 2026-01-01, not {settings.start!r}")
    return problems


DEMO_WORLD = WorldSettings(users=2_000, items=1_000, days=60)
"""The world of `make demo`: the default one's code, small enough for a laptop's first minutes."""
