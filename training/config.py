"""The `training` section of `sieve.yaml`: splits, models, evaluation and gate, all of it closed."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from serving.config import Section, SieveConfig, parse_section


class TimeSplit(Section):
    """Nested windows of whole days that end at T3, the end of the data: ...T1 | ranker | T2 | holdout | T3."""

    method: Literal["time"] = "time"
    holdout_days: int = Field(7, ge=1)
    ranker_days: int = Field(14, ge=1)


class LeaveLastOut(Section):
    """Each user's last positive is the holdout, the ones just before it teach the ranker.

    Ties at one timestamp are broken by the highest item id. `skip` drops that many last positives of each user
    first, so that settings can be chosen on the one before the test item.
    """

    method: Literal["leave_last_out"]
    ranker_events: int = Field(5, ge=1)
    skip: int = Field(0, ge=0)


Split = Annotated[TimeSplit | LeaveLastOut, Field(discriminator="method")]


class PopularSettings(Section):
    """Most popular in a window, overall and by country."""

    window_days: int | None = Field(7, ge=1, description="None counts all history")
    length: int = Field(500, ge=100)


class ItemToItemSettings(Section):
    """Item-to-item collaborative filtering.

    `cosine` is co-occurrence cosine with shrinkage; `ease` is the closed form of Steck (2019), dense in the
    number of items, for catalogues up to `ease_max_items`.
    """

    method: Literal["cosine", "ease"] = "cosine"
    neighbours: int = Field(50, ge=1, le=500)
    shrinkage: float = Field(20.0, ge=0)
    ease_lambda: float = Field(100.0, gt=0)
    ease_max_items: int = Field(20_000, ge=1)
    window_days: int | None = Field(None, ge=1)


class TwoTowerSettings(Section):
    """The two-tower retrieval model."""

    dimension: int = Field(64, ge=4, le=512)
    hidden: tuple[int, ...] = (128,)
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(2048, ge=16)
    learning_rate: float = Field(2e-3, gt=0)
    temperature: float = Field(0.07, gt=0)
    id_dropout: float = Field(0.1, ge=0, lt=1, description="rows whose item id is hidden, so that new items embed")
    max_positives: int = Field(1_000_000, ge=1)
    window_days: int | None = Field(45, ge=1)


class LambdaMartSettings(Section):
    """Gradient boosted trees with a LambdaMART objective."""

    model: Literal["lambdamart"] = "lambdamart"
    trees: int = Field(200, ge=1)
    depth: int = Field(5, ge=1, le=16)
    learning_rate: float = Field(0.05, gt=0)
    min_child_weight: float = Field(20.0, ge=0)
    column_share: float = Field(0.5, gt=0, le=1)
    row_share: float = Field(0.8, gt=0, le=1)


class NeuralRankerSettings(Section):
    """A multilayer perceptron with a listwise softmax loss."""

    model: Literal["neural"]
    hidden: tuple[int, ...] = (128, 64)
    epochs: int = Field(5, ge=1)
    batch_requests: int = Field(256, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    streaming: bool = Field(False, description="Ray Data streams Parquet shards to the workers, in bounded memory")


Ranker = Annotated[LambdaMartSettings | NeuralRankerSettings, Field(discriminator="model")]


class RankerData(Section):
    """The rows that the ranker learns from.

    Sampled negatives teach what was shown beside what was liked. More of them agree better with labels that the
    logging policy chose and earn less true reward: docs/benchmarks.md has both by their number.
    """

    max_rows: int = Field(600_000, ge=1000)
    sampled_negatives: int = Field(15, ge=0, description="retrieved but unshown candidates added to each request")


class EvaluationSettings(Section):
    """What is measured on the holdout, and for how many users."""

    max_users: int = Field(2000, ge=10)
    bootstrap_samples: int = Field(1000, ge=100)


class GateSettings(Section):
    """SEMANTICS of the gate: every baseline beaten, not much worse than production or the best of late."""

    max_loss_vs_production: float = Field(0.02, ge=0, lt=1)
    min_share_of_best: float = Field(0.98, gt=0, le=1)
    best_of_days: int = Field(90, ge=1)


class EmbeddedEngine(Section):
    """Features are joined and materialised by DuckDB in this process."""

    type: Literal["embedded"] = "embedded"


class RayEngine(Section):
    """Features are joined and materialised on Ray; it needs the packages of `locks/feast-ray.txt`."""

    type: Literal["ray"]
    address: str | None = Field(None, description="a running cluster; None starts Ray on this machine")
    object_store_mb: int = Field(256, ge=80, description="shared memory of a Ray that is started here")
    write_concurrency: int = Field(1, ge=1, description="writers to the online store; SQLite takes one")


FeatureEngine = Annotated[EmbeddedEngine | RayEngine, Field(discriminator="type")]


class RemoteLake(Section):
    """Delta tables on object storage. Credentials come from the provider's own places (environment, profile,
    instance), never from a configuration that lies in a repository."""

    url: str = Field(pattern=r"^(s3|gs|az|abfss)://[^/]+", description="bucket and prefix, such as s3://films/lake")
    storage_options: dict[str, str] = Field({}, description="of deltalake's client, such as AWS_REGION")

    @field_validator("storage_options")
    @classmethod
    def _hold_no_secret(cls, options: dict[str, str]) -> dict[str, str]:
        words = ("secret", "access_key", "token", "password", "account_key", "credential")
        secrets = [name for name in options if any(word in name.lower() for word in words)]
        if secrets:
            raise ValueError(f"{', '.join(secrets)}: credentials are not configuration")
        return options


class TrainingConfig(Section):
    """Everything that shapes a training run."""

    seed: int = 7
    workers: int = Field(1, ge=1, description="Ray Train workers")
    lake: RemoteLake | None = Field(None, description="None: the folder `lake` below `root`")
    feature_engine: FeatureEngine = EmbeddedEngine()
    split: Split = TimeSplit()
    popular: PopularSettings = PopularSettings()
    item_to_item: ItemToItemSettings = ItemToItemSettings()
    two_tower: TwoTowerSettings = TwoTowerSettings()
    ranker: Ranker = LambdaMartSettings()
    ranker_data: RankerData = RankerData()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()


def training_config(config: SieveConfig) -> TrainingConfig:
    """The checked `training` section.

    Raises:
        ConfigError: with every problem of the section.
    """
    return parse_section(TrainingConfig, {**config.training}, where="training")
