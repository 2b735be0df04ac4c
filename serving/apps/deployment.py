"""Stages as Ray deployments of their own: the same stage object, behind a handle.

A host holds the same versions as the gateways and runs one stage of them; a request travels without what belongs to
the process it came from. Answers are those of the inline stage, bit for bit.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.apps.recommend import Recommender
from serving.apps.service import RecommendService
from serving.config import SieveConfig
from serving.core.candidates import Candidates
from serving.core.request import Request
from serving.core.stages import Scored
from serving.errors import DependencyError, SieveError
from serving.observability.logs import configure_logs

HOLD_TIMEOUT_S = 120.0
HOLD_POLL_S = 0.2
log = logging.getLogger(__name__)


class StageHost:
    """One replica of a stage's deployment."""

    def __init__(self, document: dict[str, Any], label: str) -> None:
        """document: a `SieveConfig` in JSON.  label: the stage's."""
        config = SieveConfig.model_validate(document)
        configure_logs(config.logging)
        self._label = label
        self._service = RecommendService(config, keeps=1)
        self._service.start()

    async def find(self, version: str, request: Request) -> Candidates:
        """What the source finds."""
        recommender = self._recommender(version)
        found = recommender.stage(self._label).find(recommender.bound(request))
        assert isinstance(found, Candidates)
        return found

    async def score(self, version: str, request: Request, candidates: Candidates) -> Scored:
        """The scorer's scores."""
        recommender = self._recommender(version)
        scored = recommender.stage(self._label).score(recommender.bound(request), candidates)
        assert isinstance(scored, Scored)
        return scored

    async def hold(self, version: str) -> bool:
        """Whether this replica holds a version by now; it begins to load one that it does not."""
        versions = self._service.versions
        if versions.get(version) is None:
            await asyncio.to_thread(versions.hold, version)
        return True

    def _recommender(self, version: str) -> Recommender:
        held = self._service.versions.get(version)
        if held is None:
            raise DependencyError(f"{self._label} does not hold {version} yet")
        return held


class HostedStages:
    """One version's stages behind their deployments' handles."""

    def __init__(self, handles: Mapping[str, Any], version: str) -> None:
        """handles: each stage's deployment handle, by its label."""
        self._handles = handles
        self._version = version

    def source(self, label: str) -> "HostedSource":
        """A source whose `find` gives an awaitable."""
        return HostedSource(self._handles[label], self._version)

    def scorer(self, label: str) -> "HostedScorer":
        """A scorer whose `score` gives an awaitable."""
        return HostedScorer(self._handles[label], self._version)


class HostedSource:
    """A source in another process."""

    def __init__(self, handle: Any, version: str) -> None:
        self._handle = handle
        self._version = version

    async def find(self, request: Request) -> Candidates:
        """What the source finds there.

        Raises:
            DependencyError: it failed there, or cannot be reached.
        """
        found: Candidates = await _answer(self._handle.find.remote(self._version, request.portable()))
        return found


class HostedScorer:
    """A scorer in another process."""

    def __init__(self, handle: Any, version: str) -> None:
        self._handle = handle
        self._version = version

    async def score(self, request: Request, candidates: Candidates) -> Scored:
        """The scores given there.

        Raises:
            DependencyError: it failed there, or cannot be reached.
        """
        scored: Scored = await _answer(self._handle.score.remote(self._version, request.portable(), candidates))
        return scored


async def await_hosts(handles: Mapping[str, Any], replicas: Mapping[str, int], version: str) -> HostedStages:
    """The stages of a version once their deployments hold it.

    Every replica is asked several times over, because a handle chooses among them.

    Raises:
        DependencyError: a deployment did not get there in time.
    """
    limit_s = time.monotonic() + HOLD_TIMEOUT_S
    for label, handle in handles.items():
        for _ in range(3 * replicas[label]):
            await _hold(label, handle, version, limit_s)
    return HostedStages(handles, version)


async def _hold(label: str, handle: Any, version: str, limit_s: float) -> None:
    while True:
        try:
            await asyncio.wait_for(handle.hold.remote(version), max(limit_s - time.monotonic(), 0.1))
            return
        except SieveError:
            raise
        except (RayError, RayServeException, TimeoutError) as error:
            if time.monotonic() >= limit_s:
                raise DependencyError(f"the deployment of {label} does not hold {version}: {error!r}") from error
        await asyncio.sleep(HOLD_POLL_S)


async def _answer(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except SieveError:
        raise
    except (RayError, RayServeException) as error:
        if _is_a_bug(error):
            raise
        raise DependencyError(f"a stage elsewhere cannot be reached: {type(error).__name__}") from error


def _is_a_bug(error: Exception) -> bool:
    """Whether the stage itself raised something that is not Sieve's."""
    return getattr(error, "cause", None) is not None
