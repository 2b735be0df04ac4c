"""The port to stages that run elsewhere; `serving.apps.deployment` puts them on Ray."""

from typing import Protocol

from serving.core.request import Request
from serving.core.stages import Scorer, Source


class RemoteStages(Protocol):
    """Stand-ins for the stages of one bundle that run as deployments of their own, by their labels."""

    def source(self, label: str) -> Source[Request]:
        """A source whose `find` gives an awaitable."""
        ...

    def scorer(self, label: str) -> Scorer[Request]:
        """A scorer whose `score` gives an awaitable."""
        ...
