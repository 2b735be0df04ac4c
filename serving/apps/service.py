"""Brings a recommender up and keeps its item table fresh, off the path of requests."""

import logging
import threading
from pathlib import Path

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.bundles.store import BundleStore
from serving.config import SieveConfig
from serving.errors import SieveError
from serving.features.item_table import ItemTable, ItemTablePointer
from serving.features.online import open_reader

APP = "recommend"
LOADING = "the bundle is being loaded and verified"
log = logging.getLogger(__name__)


class RecommendService:
    """Holds the recommender of the configured bundle; until it is loaded, `reason` says why there is none."""

    def __init__(self, config: SieveConfig, poll_s: float = 5.0) -> None:
        """poll_s: how often to look for a newer item table or, where loading failed, another bundle."""
        self._config = config
        self._poll_s = poll_s
        self._stopped = threading.Event()
        self._tried: Path | None = None
        self._table: Path | None = None
        self.application: Recommender | None = None
        self.reason = LOADING
        self.is_loading = True

    @property
    def bundle(self) -> str | None:
        """APP/VERSION of what is loaded."""
        return None if self.application is None else self.application.model.name

    def start(self) -> None:
        """Loads and keeps fresh in a thread of its own."""
        threading.Thread(target=self._run, name="recommend-service", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread after the step that it is in."""
        self._stopped.set()

    def step(self) -> None:
        """Loads what is to be loaded, or looks for a newer item table; a failure leaves what serves as it is."""
        try:
            if self.application is None:
                self._load()
            else:
                self._refresh_table(self.application)
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

    def _load(self) -> None:
        path = BundleStore(self._config.bundles).path(APP, self._config.recommend.bundle)
        if path == self._tried:
            return
        self._tried = path
        recommender = Recommender(
            Bundle.load(path), open_reader(self._config.online_store), settings=self._config.recommend
        )
        self._refresh_table(recommender)
        self.application = recommender
        log.info("serving %s", recommender.model.name)

    def _refresh_table(self, recommender: Recommender) -> None:
        current = ItemTablePointer.current(self._config.item_tables)
        if current is None or current == self._table:
            return
        self._table = current
        try:
            recommender.table.replace(ItemTable.load(current))
            log.info("item table %s is in force", current.name)
        except SieveError as error:
            log.warning("the item table in force stays: %s", error)
