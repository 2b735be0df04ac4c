"""Keeps the configured application loaded and fresh: the bundle in force and the live item table.

Loading happens in a thread of its own, so that the transport can say what it is waiting for; a request only ever
reads one attribute.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serving.api.dataplane import Caller, Readiness
from serving.apps.recommend import APP, ARM, Recommender
from serving.apps.remote import RemoteStages
from serving.apps.versions import Versions
from serving.bundles.bundle import Bundle
from serving.bundles.check import check_elsewhere
from serving.bundles.store import BundleStore
from serving.config import Mode, SieveConfig
from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.errors import BundleError, InvalidRequest, SetupError, SieveError
from serving.features.item_table import ItemTable, ItemTablePointer
from serving.features.lists import ListReader, open_lists
from serving.features.online import UserReader, open_reader
from serving.observability.recorder import Recorder
from serving.observability.stores import MeteredLists, MeteredUsers

POLL_S = 5.0
SECOND_US = 1_000_000
LOADING = "the bundle is being loaded"
log = logging.getLogger(__name__)

Prepare = Callable[[str], RemoteStages | None]
Changed = Callable[[str, str | None], None]


class RecommendService:
    """Loads the bundle, then looks for a newer one and a newer item table every few seconds."""

    def __init__(
        self,
        config: SieveConfig,
        prepare: Prepare | None = None,
        changed: Changed | None = None,
        recorder: Recorder | None = None,
        keeps: int = 0,
        poll_s: float = POLL_S,
    ) -> None:
        """Nothing is opened yet: call `start`, or `step` for one round.

        Args:
            prepare: gives the stages of a version that run elsewhere, once they hold it.
            changed: told the bundle that is in force from now on, and the one before it.
            recorder: counts reads of the stores.
            keeps: versions before the one in force that stay held, for others who have not moved on yet.
            poll_s: time between two looks.
        """
        self._config = config
        self._prepare = prepare
        self._changed = changed
        self._keeps = keeps
        self._poll_s = poll_s
        self._store = BundleStore(config.bundles)
        self._reader: UserReader = open_reader(config.online_store)
        self._lists: ListReader | None = None
        if config.recommend.mode is not Mode.REALTIME:
            self._lists = open_lists(config.online_store)
        if recorder is not None:
            self._reader = MeteredUsers(self._reader, recorder)
            self._lists = None if self._lists is None else MeteredLists(self._lists, recorder)
        self._stopped = threading.Event()
        self._refused: set[str] = set()
        self._table: Path | None = None
        self.versions = Versions(self._open)
        self.reason = LOADING
        self.is_loading = True

    @property
    def application(self) -> Recommender | None:
        """What answers; None while nothing is loaded."""
        return self.versions.in_force

    @property
    def bundle(self) -> str | None:
        """APP/VERSION of what is in force."""
        return None if self.application is None else self.application.model.name

    def readiness(self) -> Readiness:
        """Whether a verified bundle is in force."""
        bundle = self.bundle
        if bundle is None:
            return Readiness(False, self.is_loading, self.reason)
        return Readiness(True, self.is_loading, bundles={APP: bundle})

    async def recommend(self, query: Query, deadline: Deadline, caller: Caller) -> Prediction:
        """The prediction of the version in force.

        Raises:
            SetupError: nothing is loaded yet.
            InvalidRequest: naming the field.
        """
        application = self.application
        if application is None:
            raise SetupError(self.reason)
        if caller.forced_arm not in (None, ARM):
            raise InvalidRequest("X-Sieve-Arm", f"there is no such arm; there is {ARM}")
        return await application.respond(query, deadline=deadline)

    def quality(self) -> float | None:
        """The share of the candidates that are ranked, 1 without pressure; None where nothing ranks."""
        ranker = None if self.application is None else self.application.ranker
        return None if ranker is None or ranker.pressure is None else ranker.pressure.quality

    def bundle_age_s(self) -> float | None:
        """Seconds since the bundle in force was made."""
        bundle = None if self.application is None else self.application.model.bundle
        return None if bundle is None else time.time() - bundle.manifest.created_at.timestamp()

    def feature_age_s(self) -> float | None:
        """Seconds since the snapshot that the item features in force come from."""
        application = self.application
        return None if application is None else time.time() - application.table().watermark_us / SECOND_US

    def start(self) -> None:
        """Loads and keeps fresh in a thread of its own."""
        threading.Thread(target=self._run, name="recommend-service", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread after the step that it is in."""
        self._stopped.set()

    def step(self) -> None:
        """Looks for a newer bundle and a newer item table; a failure leaves what serves as it is."""
        try:
            self._refresh_table()
            self._refresh_bundle()
        except SieveError as error:
            self.reason = str(error)
            log.warning("%s", error)
        except Exception:
            self.reason = "loading failed for a reason that the log tells"
            log.exception("loading failed")
        self.is_loading = False

    def _run(self) -> None:
        self.step()
        while not self._stopped.wait(self._poll_s):
            self.step()

    def _refresh_bundle(self) -> None:
        wanted = self._store.path(APP, self._config.recommend.bundle).name
        in_force = self.application
        if wanted in self._refused or (in_force is not None and self.versions.get(wanted) is in_force):
            return
        try:
            self.versions.hold(wanted)
        except BundleError:
            self._refused.add(wanted)  # a bundle never changes: it is as damaged the next time
            raise
        replaced = self.bundle
        self.versions.put_in_force(wanted)
        if self._changed is not None:
            self._changed(f"{APP}/{wanted}", replaced)
        others = [version for version in self.versions.held if version != wanted]
        for version in others[: len(others) - self._keeps]:
            self.versions.drop(version)

    def _open(self, version: str) -> Recommender:
        path, is_answering = self._store.path(APP, version), self.application is not None
        if is_answering:
            check_elsewhere(path)
        bundle = Bundle.load(path, verify=not is_answering)
        remote = None if self._prepare is None else self._prepare(version)
        recommender = Recommender(bundle, self._reader, None, self._config.recommend, self._lists, remote)
        if self._table is not None:
            self._replace_table(recommender, ItemTable.load(self._table))
        return recommender

    def _replace_table(self, recommender: Recommender, table: ItemTable) -> None:
        try:
            recommender.table.replace(table)
        except BundleError as error:
            log.warning("%s keeps its item table: %s", recommender.model.name, error)

    def _refresh_table(self) -> None:
        current = ItemTablePointer.current(self._config.item_tables)
        if current is None or current == self._table:
            return
        table = ItemTable.load(current)
        for version in self.versions.held:
            held = self.versions.get(version)
            if held is not None:
                self._replace_table(held, table)
        self._table = current
        log.info("item table %s is in force", current.name)
