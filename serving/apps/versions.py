"""Bundles side by side in one process: loaded beside the one in force, verified, warmed, swapped, let go.

A request keeps the recommender that it began with, so nothing is waited for at a swap: the old version's memory
returns when its last request is done.
"""

import ctypes
import ctypes.util
import gc
import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from serving.apps.recommend import Recommender
from serving.core.query import Context, Query
from serving.core.runner import EXPECTED

WARM_REQUESTS = 20
log = logging.getLogger(__name__)


class Versions:
    """The versions that a process holds, by name, and which of them is in force."""

    def __init__(self, load: Callable[[str], Recommender]) -> None:
        """load: opens a verified version; may raise BundleError."""
        self._load = load
        self._held: dict[str, Recommender] = {}
        self._lock = threading.Lock()
        self._in_force: Recommender | None = None

    @property
    def in_force(self) -> Recommender | None:
        """What answers; None before the first version is in force."""
        return self._in_force

    @property
    def held(self) -> tuple[str, ...]:
        """The versions that could be put in force at once."""
        return tuple(self._held)

    def get(self, version: str) -> Recommender | None:
        """A held version."""
        return self._held.get(version)

    def hold(self, version: str) -> Recommender:
        """Loads and warms a version beside the others; does nothing more where it is held already.

        Raises:
            BundleError: it is damaged, or does not fit this code; what is held stays as it is.
        """
        with self._lock:
            held = self._held.get(version)
            if held is None:
                started = time.perf_counter()
                held = self._load(version)
                warm(held)
                self._held = {**self._held, version: held}
                log.info("holding %s after %.1f s", held.model.name, time.perf_counter() - started)
            return held

    def put_in_force(self, version: str) -> None:
        """Answers with a held version from now on.

        Raises:
            KeyError: it is not held.
        """
        self._in_force = self._held[version]
        log.info("%s is in force", self._in_force.model.name)

    def drop(self, version: str) -> None:
        """Lets go of a version that is not in force; its memory returns when its last request is done.

        Raises:
            ValueError: it is in force.
        """
        with self._lock:
            dropped = self._held.get(version)
            if dropped is None:
                return
            if dropped is self._in_force:
                raise ValueError(f"{version} is in force")
            self._held = {name: held for name, held in self._held.items() if name != version}
            name = dropped.model.name
            del dropped
        return_memory()
        log.info("let go of %s", name)


def warm(recommender: Recommender) -> None:
    """Answers a few requests, so that the first real one finds everything paged in and allocated.

    A stage that is down fails its requests as it would a real one's, which is not this version's fault.
    """
    known = recommender.model.catalogue
    for row in np.linspace(0, len(known) - 1, WARM_REQUESTS).astype(np.int32):
        liked = Context(likes=(known.id_of(int(row)),))
        try:
            recommender.warm(Query(session_id="warm", context=liked))
        except EXPECTED as error:
            log.warning("a warming request failed: %s", error)


def return_memory() -> None:
    """Gives memory that nothing refers to any more back to the system, where the C library can."""
    gc.collect()
    library = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None
    if trim is not None:
        trim(0)
