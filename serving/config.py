"""Everything that can be set, read from one closed `sieve.yaml`; nothing else reads the environment.

Relative paths are relative to the configuration file's folder. The `training` section is kept as it stands
here and validated by `training.config`, because a serving install does not carry the training package's
settings.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import ConfigError
from serving.observability.settings import LogSettings, MetricsSettings, TracingSettings

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
    timeout_s: float = Field(0.1, gt=0, le=60, description="a read that waits longer for a lock is given up")


class RedisOnlineStore(Section):
    """Redis, shared by all replicas."""

    type: Literal["redis"]
    url: str = Field("redis://127.0.0.1:6379/0", pattern=r"^rediss?://")
    timeout_s: float = Field(0.1, gt=0, le=60, description="a read that takes longer is given up")
    connect_timeout_s: float = Field(0.25, gt=0, le=60)


OnlineStore = Annotated[SqliteOnlineStore | RedisOnlineStore, Field(discriminator="type")]


class Autoscaling(Section):
    """How many replicas Ray runs, by the requests that they are answering."""

    min_replicas: int = Field(1, ge=1, le=1000)
    max_replicas: int = Field(4, ge=1, le=1000)
    ongoing_requests: float = Field(4.0, gt=0, description="wanted of each replica")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class ServerSettings(Section):
    """Where and how HTTP and gRPC listen, and what they refuse."""

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=1, le=65_535)
    grpc_port: int = Field(9000, ge=1, le=65_535)
    replicas: int = Field(1, ge=1, le=1000)
    autoscaling: Autoscaling | None = Field(None, description="in place of a fixed number of replicas")
    high_throughput: bool = Field(True, description="Ray Serve's HAProxy ingress and throughput mode")
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    max_batch: int = Field(100, ge=1, le=1000, description="requests in one batch call")
    max_concurrent_rpcs: int = Field(200, ge=1, le=100_000, description="gRPC calls of one replica at a time")
    max_lag_ms: float = Field(2000.0, gt=0, description="who would wait longer is refused, whatever the deadline")
    drain_s: float = Field(5.0, ge=0, le=600, description="calls under way may take this long when a replica stops")
    tokens_file: Path | None = Field(None, description="who may do what; without it everyone may do everything")


class Placement(StrEnum):
    """Where a stage runs: in the gateway's own process, or as a Ray deployment of its own."""

    INLINE = "inline"
    DEPLOYMENT = "deployment"


class StageChoice(Section):
    """One stage of the pipeline: a built-in name, or `package.module:Class`."""

    use: str = Field(min_length=1, pattern=r"^[a-z_][a-z0-9_]*$|^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    name: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]{0,62}$", description="defaults to `use`, or the class's")
    settings: dict[str, Any] = Field({}, description="the stage's own settings, checked by the stage")

    @property
    def label(self) -> str:
        """The name that traces, metrics and answers show."""
        return self.name or self.use.rpartition(":")[2].lower()


class FallibleChoice(StageChoice):
    """A stage that may fail, be late, or run elsewhere."""

    budget_ms: float = Field(float("inf"), gt=0, description="at most this much of the request's time")
    on_failure: Literal["skip", "fail"] | StageChoice = Field("skip", description="or a stage that takes its place")
    placement: Placement = Placement.INLINE
    replicas: int = Field(1, ge=1, le=1000, description="of the stage's own deployment")


class SourceChoice(FallibleChoice):
    """A source of candidates and its part of what is ranked."""

    share: float = Field(gt=0, le=1, description="its quota, relative to the other sources'")


class RankerChoice(FallibleChoice):
    """What orders the candidates."""

    use: str = "onnx"
    name: str | None = "ranker"
    budget_ms: float = Field(50.0, gt=0)


class Mode(StrEnum):
    """Where lists come from."""

    REALTIME = "realtime"
    BATCH = "batch"
    HYBRID = "hybrid"


EXPLORATION = "exploration"
SOURCES = (
    SourceChoice(use="two_tower", share=0.6),
    SourceChoice(use="item_to_item", share=0.3),
    SourceChoice(use="popular", share=0.1),
)


class RecommendSettings(Section):
    """The recommendation pipeline, from top to bottom. Eligibility is always part of it and is not configured."""

    bundle: str = Field("latest", description="a version, or `latest` in the bundle store")
    mode: Mode = Field(Mode.HYBRID, description="answers made now, lists made beforehand, or the one before the other")
    deadline_ms: float = Field(1000.0, gt=0, le=600_000, description="where the request sets none")
    candidates: int = Field(500, ge=20, le=10_000, description="candidates given to the ranker")
    max_k: int = Field(100, ge=1, le=1000)
    max_depth: int = Field(200, ge=1, le=1000, description="items of one list that pages may reach")
    seen_again_after_days: float | None = Field(None, gt=0, description="what was seen may come back; None is never")
    ignored_after: int = Field(5, ge=2, description="times shown without being taken up that count as ignored")
    lists_max_age_s: float = Field(172_800, gt=0, description="an older precomputed list is not served")
    sources: tuple[SourceChoice, ...] = Field(SOURCES, min_length=1, max_length=32)
    before: tuple[StageChoice, ...] = Field((), description="cheap rules before the ranker")
    ranker: RankerChoice | None = RankerChoice()
    after: tuple[StageChoice, ...] = Field((), description="rules after the ranker, in order")

    @model_validator(mode="after")
    def _labels_are_unique(self) -> Self:
        labels = [c.label for c in (*self.sources, *self.before, *self.after, *([self.ranker] if self.ranker else []))]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"stages named twice, give one a `name`: {', '.join(twice)}")
        if any(choice.use == EXPLORATION for choice in self.after[:-1]):
            raise ValueError(f"{EXPLORATION} must be the last rule: nothing after it may change what chance has placed")
        return self


class SieveConfig(Section):
    """The whole of `sieve.yaml`."""

    root: Path = Field(Path("var"), description="folder of tables, features, runs, bundles and the registry")
    vocabulary: Vocabulary = Vocabulary()
    features: FeatureSettings = FeatureSettings()
    online_store: OnlineStore = SqliteOnlineStore()
    server: ServerSettings = ServerSettings()
    recommend: RecommendSettings = RecommendSettings()
    metrics: MetricsSettings = MetricsSettings.model_validate({})
    logging: LogSettings = LogSettings()
    tracing: TracingSettings | None = None
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
    if config.server.tokens_file is not None:
        update["server"] = config.server.model_copy(update={"tokens_file": base / config.server.tokens_file})
    return config.model_copy(update=update)
