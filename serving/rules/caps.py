"""How much of the top one provider may have."""

from pydantic import Field

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates
from serving.core.request import Request
from serving.core.stages import Marked, Ruled, StageSettings
from serving.rules.order import at_most

REASON = "provider_cap"


class ProviderCapRule:
    """At most a few items of one provider among the first, as far as there are others; nothing is lost."""

    class Settings(StageSettings):
        """per_provider: how many items of one provider may stand among the first `window`."""

        per_provider: int = Field(5, ge=1)
        window: int = Field(20, ge=1, le=1000)

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        self._table = parts.table
        self._settings = settings

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Moves what is too much to right behind the window, in its order, and marks it as `provider_cap`.

        Items without a provider are never moved.
        """
        providers = self._table().provider.take(candidates.row)
        result = at_most(providers, self._settings.per_provider, self._settings.window)
        if result is None:
            return Ruled(candidates)
        order, excess = result
        return Ruled(candidates.take(order), marked=(Marked(candidates.row[excess], REASON),))
