"""Everything that can be set, read from one closed `sieve.yaml`; nothing else reads the environment.

Relative paths are relative to the configuration file's folder. The `training` section is kept as it stands
here and validated by `training.config`, because a serving install does not carry the training package's
settings.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ConfigError

MOVIE_GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
COUNTRIES = ("US", "GB", "DE", "FR", "ES", "BR", "IN", "JP")

S = TypeVar("S", bound=BaseModel)


class Section(BaseModel):
    """A closed, immutable part of the configuration: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Vocabulary(Section):
    """The closed sets that one-hot features are made from; a value outside them is `other` (all zeros)."""

    genres: tuple[str, ...] = Field(MOVIE_GENRES, min_length=1, max_length=64)
    countries: tuple[str, ...] = Field(COUNTRIES, min_length=1, max_length=64)


class FeatureSettings(Section):
    """How old features are when they are read, in serving and so in training."""

    snapshot_lag_s: int = Field(
        3600, ge=0, le=86_400, description="a snapshot is readable this long after its midnight"
    )
    snapshot_every_days: int = Field(1, ge=1, le=365, description="days between snapshots, counted from 1970-01-01")
    snapshot_ttl_days: int = Field(3, ge=1, le=36_500, description="an older snapshot row counts as missing")
    history_lag_s: float = Field(5.0, ge=0, le=86_400, description="from an event's ingestion to the user's history")
    history_length: int = Field(100, ge=1, le=1000, description="items kept in the user's history row")


class SqliteOnlineStore(Section):
    """The embedded online store: one file that one machine's processes read."""

    type: Literal["sqlite"] = "sqlite"
    path: Path = Path("var/online_store.db")


class RedisOnlineStore(Section):
    """Redis, shared by all replicas."""

    type: Literal["redis"]
    url: str = Field("redis://127.0.0.1:6379/0", pattern=r"^rediss?://")


OnlineStore = Annotated[SqliteOnlineStore | RedisOnlineStore, Field(discriminator="type")]


class ServerSettings(Section):
    """Where and how the HTTP server listens."""

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=1, le=65_535)
    grpc_port: int = Field(9000, ge=1, le=65_535)
    replicas: int = Field(1, ge=1, le=1000)
    high_throughput: bool = Field(True, description="Ray Serve's HAProxy ingress and throughput mode")
    max_body_bytes: int = Field(1_000_000, ge=1_000)


class RecommendSettings(Section):
    """The recommendation pipeline."""

    bundle: str = Field("latest", description="a version, or `latest` in the bundle store")
    candidates: int = Field(500, ge=20, le=10_000, description="candidates given to the ranker")
    max_k: int = Field(100, ge=1, le=1000)


class SieveConfig(Section):
    """The whole of `sieve.yaml`."""

    root: Path = Field(Path("var"), description="folder of tables, features, runs, bundles and the registry")
    vocabulary: Vocabulary = Vocabulary()
    features: FeatureSettings = FeatureSettings()
    online_store: OnlineStore = SqliteOnlineStore()
    server: ServerSettings = ServerSettings()
    recommend: RecommendSettings = RecommendSettings()
    training: dict[str, Any] = {}

    @property
    def lake(self) -> Path:
        """Folder of the Delta tables."""
        return self.root / "lake"

    @property
    def feature_store(self) -> Path:
        """Folder of the feature snapshots and Feast's registry."""
        return self.root / "features"

    @property
    def item_tables(self) -> Path:
        """Folder of the materialised item tables, with the `current` pointer."""
        return self.root / "item_tables"

    @property
    def bundles(self) -> Path:
        """Folder of published bundles: APP/VERSION."""
        return self.root / "bundles"

    @property
    def twins(self) -> Path:
        """Folder of the candidates that accepted bundles were judged by: APP/VERSION."""
        return self.root / "twins"

    @property
    def runs(self) -> Path:
        """Folder of training runs, finished or to be resumed."""
        return self.root / "runs"


def load_config(path: Path) -> SieveConfig:
    """Reads and checks a configuration; every mistake is reported at once.

    Raises:
        ConfigError: the file is missing, is not YAML, or breaks the schema; one line per problem.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML", [str(error).replace("\n", " ")]) from None
    if not isinstance(document, dict | None):
        raise ConfigError(f"{path} must hold a mapping", [f"it holds a {type(document).__name__}"])
    config = parse_section(SieveConfig, document or {}, where=str(path))
    return _resolve_paths(config, path.resolve().parent)


def parse_section(model: type[S], document: dict[str, Any], where: str) -> S:
    """Validates one mapping against its model.

    Raises:
        ConfigError: with one `dotted.path: problem` line for each mistake.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or '(root)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{where} has {len(problems)} problem(s)", problems) from None


def _resolve_paths(config: SieveConfig, base: Path) -> SieveConfig:
    update: dict[str, Any] = {"root": base / config.root}
    if isinstance(config.online_store, SqliteOnlineStore):
        update["online_store"] = config.online_store.model_copy(update={"path": base / config.online_store.path})
    return config.model_copy(update=update)
