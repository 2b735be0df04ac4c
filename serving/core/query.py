"""What a caller may ask: a closed schema, bounded in size and count."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    model_validator,
)

ID_MAX_BYTES = 128
MAX_IDS = 1000
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def opaque_id(value: str) -> str:
    """The id itself.

    Raises:
        ValueError: it is empty, too long, or holds what cannot be printed.
    """
    if not value or len(value.encode("utf-8", "surrogatepass")) > ID_MAX_BYTES:
        raise ValueError(f"an id is 1 to {ID_MAX_BYTES} bytes of UTF-8")
    if "\x00" in value or not value.isprintable():
        raise ValueError("an id holds printable characters only")
    return value


def _whole(value: object) -> object:
    # JSON has one kind of number: 20.0 is 20
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plausible(value: datetime) -> datetime:
    if not EARLIEST <= value < LATEST:
        raise ValueError(f"a time lies between {EARLIEST.year} and {LATEST.year}")
    return value


Count = Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)]
Year = Annotated[int, Field(ge=0, le=9999), BeforeValidator(_whole)]
OpaqueId = Annotated[str, AfterValidator(opaque_id), Field(json_schema_extra={"minLength": 1, "maxLength": 128})]
# Only a list's first mistake is told: a body of a megabyte can hold 300,000 of them.
IdList = Annotated[tuple[OpaqueId, ...], FailFast(), Field(max_length=MAX_IDS)]


class Closed(BaseModel):
    """An immutable request part in which an unknown field is the caller's mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Context(Closed):
    """Where and when the request happens."""

    device: str | None = Field(default=None, max_length=32, examples=["tv"])
    surface: str | None = Field(default=None, max_length=64, examples=["home"])
    country: str | None = Field(default=None, pattern=r"^[A-Z]{2}$", examples=["DE"])
    time: Annotated[AwareDatetime, AfterValidator(_plausible)] | None = Field(
        default=None, description="with its zone; changes context features only, never a licence"
    )
    likes: IdList = Field(default=(), description="items that someone without a history says they like")


class Filters(Closed):
    """What the answer must be limited to."""

    genres: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], FailFast()] = Field(
        default=(), max_length=64, description="at least one of these"
    )
    year_from: Year | None = None
    year_to: Year | None = None

    @model_validator(mode="after")
    def _years_are_in_order(self) -> Self:
        if self.year_from is not None and self.year_to is not None and self.year_from > self.year_to:
            raise ValueError("`year_from` is after `year_to`")
        return self


class Query(Closed):
    """One request for recommendations."""

    user_id: OpaqueId | None = None
    session_id: OpaqueId | None = None
    k: Count = 20
    context: Context = Context()
    filters: Filters = Filters()
    exclude: IdList = ()
    seed_items: IdList = Field(default=(), description="more like these")
    cursor: str | None = Field(default=None, max_length=4096)
    explain: bool = False
    request_id: OpaqueId | None = None
