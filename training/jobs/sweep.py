"""Several configurations side by side: a YAML list of overrides of the `training` section."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from serving.config import SieveConfig, parse_section
from serving.errors import ConfigError
from training.config import TrainingConfig


def read_sweep(path: Path, config: SieveConfig) -> Iterator[tuple[str, TrainingConfig]]:
    """Each entry's name and settings: the configuration's own `training`, overridden key by key.

    An entry is a mapping such as `{two_tower: {epochs: 5}}`; an optional `name` tells it apart.

    Raises:
        ConfigError: the file is not a list of mappings, or an entry is not valid; all entries are checked first.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the sweep {path} cannot be read", [str(error).replace("\n", " ")]) from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"the sweep {path} must be a list of mappings")
    settings, problems = [], list[str]()
    for number, entry in enumerate(entries, start=1):
        name = str(entry.pop("name", f"#{number}"))
        try:
            merged = _merge(config.training, entry)
            settings.append((name, parse_section(TrainingConfig, merged, where=name)))
        except ConfigError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(f"the sweep {path} has {len(problems)} problem(s)", problems)
    return iter(settings)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = value
        if isinstance(known, dict) and isinstance(value, dict) and _same_kind(known, value):
            merged[key] = _merge(known, value)
    return merged


def _same_kind(known: dict[str, Any], value: dict[str, Any]) -> bool:
    """Whether settings are of one model or method, so that the ones that are not overridden still mean something."""
    return all(value[name] == known.get(name) for name in ("model", "method") if name in value)
