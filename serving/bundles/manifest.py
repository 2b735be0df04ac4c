"""The manifest: everything that a bundle says of itself, in one closed document.

Its bytes are canonical (sorted keys, fixed separators), so that their sha256 names the bundle's version and
any changed byte is found.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from serving.config import FeatureSettings, Vocabulary
from serving.errors import BundleError
from serving.features.spec import VIEWS, Feature, FeatureSet

MANIFEST = "manifest.json"
VERSION_PATTERN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")
OVERALL_SEGMENT = "*"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Closed(BaseModel):
    """An immutable document part: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Closed):
    """One file of the bundle, exact to the byte."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class FeatureEntry(Closed):
    """One float32 feature and the value that stands for a missing one."""

    name: str = Field(min_length=1)
    default: Finite


class FeatureManifest(Closed):
    """Every view's features in order; the ranker's matrix is the five views side by side, in this order."""

    user: tuple[FeatureEntry, ...]
    item: tuple[FeatureEntry, ...]
    context: tuple[FeatureEntry, ...]
    pair: tuple[FeatureEntry, ...]
    affinity: tuple[FeatureEntry, ...]

    def __len__(self) -> int:
        return sum(len(getattr(self, view)) for view in VIEWS)

    @classmethod
    def of(cls, features: FeatureSet) -> "FeatureManifest":
        """What a manifest keeps of a feature set."""
        views = {view: tuple(_entry(feature) for feature in members) for view, members in features.views.items()}
        return cls(**views)

    @property
    def entries(self) -> tuple[FeatureEntry, ...]:
        """All features in matrix order."""
        return tuple(chain.from_iterable(getattr(self, view) for view in VIEWS))

    @property
    def names(self) -> tuple[str, ...]:
        """All feature names in matrix order."""
        return tuple(entry.name for entry in self.entries)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "FeatureManifest":
        repeated = sorted(name for name, times in Counter(self.names).items() if times > 1)
        if repeated:
            raise ValueError(f"features named twice: {', '.join(repeated)}")
        return self


class TensorEntry(Closed):
    """One input or output of a model, float32; `None` in the shape is any size."""

    name: str
    shape: tuple[int | None, ...]
    features: tuple[str, ...] = ()


class ModelEntry(Closed):
    """One ONNX file and what goes in and out of it."""

    file: str
    inputs: tuple[TensorEntry, ...] = Field(min_length=1)
    outputs: tuple[TensorEntry, ...] = Field(min_length=1)


class SplitEntry(Closed):
    """How the data were divided in time; the cuts are microseconds since the epoch, UTC."""

    method: str
    cuts_us: dict[str, int] = {}


class Manifest(Closed):
    """What a bundle holds, what it was made from and how well it did."""

    format: Literal[1] = 1
    app: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    created_at: datetime
    items: int = Field(ge=1, description="N, rows of the catalogue")
    dimension: int = Field(ge=1, description="d, length of an embedding")
    vocabulary: Vocabulary
    feature_settings: FeatureSettings
    features: FeatureManifest
    models: dict[str, ModelEntry]
    segments: tuple[str, ...]
    data_versions: dict[str, int] = Field(description="version of each table that was read")
    split: SplitEntry
    training: dict[str, JsonValue]
    metrics: dict[str, Finite]
    software: dict[str, str]
    files: dict[str, FileEntry]

    @field_validator("created_at")
    @classmethod
    def _whole_seconds_in_utc(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("must carry a time zone")
        if value.microsecond:
            raise ValueError("must be whole seconds")
        return value.astimezone(UTC)

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, value: dict[str, FileEntry]) -> dict[str, FileEntry]:
        wrong = sorted(path for path in value if not is_inside(path))
        if wrong:
            raise ValueError(f"paths that leave the bundle: {', '.join(wrong)}")
        return value

    @field_validator("training")
    @classmethod
    def _numbers_are_finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if not all(math.isfinite(number) for number in _floats(value)):
            raise ValueError("must hold finite numbers only")
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> "Manifest":
        problems = []
        if self.segments != (OVERALL_SEGMENT, *self.vocabulary.countries):
            problems.append("segments must be '*' and then the vocabulary's countries")
        problems += [
            f"model {name}: {model.file} is not among the files"
            for name, model in self.models.items()
            if model.file not in self.files
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def version(self) -> str:
        """The bundle's version: UTC time of creation and the first 12 hex digits of the manifest's sha256."""
        digest = hashlib.sha256(canonical_bytes(self)).hexdigest()
        return f"{self.created_at:%Y%m%dT%H%M%SZ}-{digest[:12]}"


def is_inside(path: str) -> bool:
    """Whether a relative POSIX path is in normal form and stays below its root."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and pure.as_posix() == path and ".." not in pure.parts and path != "."


def canonical_bytes(manifest: Manifest) -> bytes:
    """The one byte string that stands for a manifest."""
    document = manifest.model_dump(mode="json")
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def read_manifest(directory: Path) -> Manifest:
    """Reads a bundle's manifest.

    Raises:
        BundleError: it is missing, breaks the schema, or its bytes are not the canonical ones.
    """
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"no bundle at {directory}", [f"{MANIFEST}: {error.strerror}"]) from None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"the manifest of {directory} is damaged", _lines(error)) from None
    if canonical_bytes(manifest) != content:
        raise BundleError(f"the manifest of {directory} is damaged", [f"{MANIFEST}: not in canonical form"])
    return manifest


def _entry(feature: Feature) -> FeatureEntry:
    return FeatureEntry(name=feature.name, default=feature.default)


def _lines(error: ValidationError) -> list[str]:
    return [f"{MANIFEST}: {'.'.join(map(str, e['loc'])) or '(root)'}: {e['msg']}" for e in error.errors()]


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_floats, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_floats, value))
