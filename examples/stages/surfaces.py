from serving.core.stages import Ruled, StageSettings
from serving.rules.eligibility import split


class SurfaceRule:
    """On one surface, nothing above a maturity."""

    class Settings(StageSettings):
        surface: str = "kids"
        up_to_years: int = 6

    def __init__(self, parts, settings):
        self.table, self.settings = parts.table, settings

    def apply(self, request, candidates):
        if request.query.context.surface != self.settings.surface:
            return Ruled(candidates)
        return split(candidates, [("surface", self.table().maturity[candidates.row] > self.settings.up_to_years)])
