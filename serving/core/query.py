"""What a caller may ask: a closed schema, bounded in size and count."""

from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

ID_MAX_BYTES = 128
MAX_IDS = 1000


def _opaque_id(value: str) -> str:
    if not value or len(value.encode("utf-8", "surrogatepass")) > ID_MAX_BYTES:
        raise ValueError(f"an id is 1 to {ID_MAX_BYTES} bytes of UTF-8")
    if "\x00" in value or not value.isprintable():
        raise ValueError("an id holds printable characters only")
    return value


OpaqueId = Annotated[str, AfterValidator(_opaque_id)]
IdList = Annotated[tuple[OpaqueId, ...], Field(max_length=MAX_IDS)]


class Closed(BaseModel):
    """An immutable request part in which an unknown field is the caller's mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Context(Closed):
    """Where and when the request happens."""

    device: str | None = Field(default=None, max_length=32, examples=["tv"])
    surface: str | None = Field(default=None, max_length=64, examples=["home"])
    country: str | None = Field(default=None, pattern=r"^[A-Z]{2}$", examples=["DE"])
    time: AwareDatetime | None = Field(default=None, description="changes context features only, never a licence")
    likes: IdList = Field(default=(), description="items that someone without a history says they like")


class Filters(Closed):
    """What the answer must be limited to."""

    genres: tuple[str, ...] = Field(default=(), max_length=64, description="at least one of these")
    year_from: int | None = Field(default=None, ge=0, le=9999)
    year_to: int | None = Field(default=None, ge=0, le=9999)


class Query(Closed):
    """One request for recommendations."""

    user_id: OpaqueId | None = None
    session_id: OpaqueId | None = None
    k: int = Field(default=20, ge=1, le=1000)
    context: Context = Context()
    filters: Filters = Filters()
    exclude: IdList = ()
    seed_items: IdList = Field(default=(), description="more like these")
    cursor: str | None = Field(default=None, max_length=4096)
    explain: bool = False
    request_id: OpaqueId | None = None
