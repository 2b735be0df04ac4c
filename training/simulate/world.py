"""StreamFlix, the simulated film service: people, films, a history, live answers, and the truth about clicks.

A world is a function of its settings. Users click on films by a choice model (training.simulate.choice) whose
latent tastes no table shows; the world can say the true probability of every click, and so what the best
possible list is. It answers in two ways: `days` is a batch history under a simple logging policy
(training.simulate.policy), `respond` is what one user does with one served list, now. Both draw from the same
model.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from serving.errors import InvalidRequest
from training.simulate import choice
from training.simulate.choice import Visits
from training.simulate.clock import DAY_US, year_of
from training.simulate.films import draw_films
from training.simulate.history import Block, join_days, play_history
from training.simulate.ids import LiveIds, rows_of
from training.simulate.outcomes import draw_outcomes
from training.simulate.places import DEVICES, age_class_of, eligibility_bit
from training.simulate.policy import Pages
from training.simulate.settings import DEMO_WORLD, WorldSettings
from training.simulate.tables import LogTables, items_table, users_table
from training.simulate.tastes import draw_tastes
from training.simulate.trends import draw_trends, film_logits
from training.simulate.users import draw_users

__all__ = ["DEMO_WORLD", "Reward", "World", "WorldSettings"]

Reward = Literal["click", "play8", "completion"]


class World:
    """A StreamFlix world; users and films are named by their int rows (id number - 1) unless said otherwise."""

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        tastes = draw_tastes(settings.seed)
        self.users = draw_users(settings, tastes)
        self.films = draw_films(settings, tastes)
        self._trends = draw_trends(settings, self.films)
        self._eligibility = self.films.eligibility()
        self._log = LogTables(settings.users, settings.items)
        self._film_logits = lru_cache(maxsize=8)(lambda day: film_logits(self.films, self._trends, day))

    @classmethod
    def load(cls, path: Path) -> "World":
        """The world whose settings `WorldSettings.save` wrote.

        Raises:
            ConfigError: the file is missing or is not a world's.
        """
        return cls(WorldSettings.load(path))

    def users_table(self) -> pa.Table:
        """All users, in the declared schema."""
        return users_table(self.users)

    def items_table(self) -> pa.Table:
        """All films, in the declared schema."""
        return items_table(self.films, self.settings.seed)

    def blocks(self) -> Iterator[Block]:
        """The history from its start, a block of users of a day at a time; each call starts anew."""
        return play_history(self.settings, self.users, self.films, self._trends, self._log)

    def days(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """(impressions, events) of each day of the history."""
        return join_days(self.blocks())

    def user_rows(self, user_ids: Sequence[str]) -> np.ndarray:
        """Rows int32[n] of user ids.

        Raises:
            NotFound: an id that is not of this world.
        """
        return rows_of("u", user_ids, self.settings.users, "user_id")

    def item_rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Rows int32[n] of item ids.

        Raises:
            NotFound: an id that is not of this world.
        """
        return rows_of("i", item_ids, self.settings.items, "item_ids")

    def click_probability(
        self,
        user: np.ndarray | int,
        item: np.ndarray,
        time_us: np.ndarray | int,
        device: np.ndarray | str | None = None,
    ) -> np.ndarray:
        """The true probability that an examined film is clicked: float64[n].

        `item` int[n]; `user` int and `time_us` int64 are [n] or one for all; `device` is a name, or codes int[n]
        of `places.DEVICES`, or None for each user's main device. Being available, allowed or watched before is
        not looked at.

        Raises:
            InvalidRequest: an unknown device.
        """
        item = np.atleast_1d(np.asarray(item))
        visits = self._visits(np.broadcast_to(user, item.shape), np.broadcast_to(time_us, item.shape), device)
        day = visits.time_us // DAY_US
        logits = np.empty(len(item), dtype=np.float64)
        for one in np.unique(day):
            rows = np.flatnonzero(day == one)
            logits[rows] = choice.click_logits(
                self.users, self.films, self._film_logits(int(one)), visits.take(rows), np.arange(len(rows)), item[rows]
            )
        return choice.sigmoid(logits)

    def reward_probability(
        self,
        user: np.ndarray | int,
        item: np.ndarray,
        time_us: np.ndarray | int,
        reward: Reward = "click",
        device: np.ndarray | str | None = None,
    ) -> np.ndarray:
        """The true probability that an examined film earns a reward: float64[n], arguments as in `click_probability`.

        `click` is an opened page, `play8` 8 minutes or more watched, `completion` 70 % or more, be it in a second
        sitting; ratings are not counted.
        """
        item = np.atleast_1d(np.asarray(item))
        click = self.click_probability(user, item, time_us, device)
        if reward == "click":
            return click
        watch = choice.watch_logits(self.users, self.films, np.broadcast_to(user, item.shape), item)
        given_play = choice.survival(watch) if reward == "play8" else choice.completion(watch)
        return click * choice.PLAY_GIVEN_CLICK * given_play.astype(np.float64)

    @staticmethod
    def examination(position: np.ndarray) -> np.ndarray:
        """The probability that the film at a 0-based position of a list is examined: float64, same shape."""
        return choice.examination(position)

    def expected_reward(
        self,
        user: int,
        items: np.ndarray,
        time_us: int,
        reward: Reward = "click",
        device: str | None = None,
    ) -> float:
        """The expected number of rewards from a list of films (int[k], from the top) served at a time.

        The sum over positions of examination x reward probability; an empty list earns 0.
        """
        items = np.asarray(items, dtype=np.int64)
        probability = self.reward_probability(user, items, time_us, reward, device)
        return float(np.sum(self.examination(np.arange(len(items))) * probability))

    def eligible(self, user: int, time_us: int) -> np.ndarray:
        """Films that a user may see at a time: available, licensed then and there, fit for the age: bool[N].

        A user of unknown age sees films for all ages only; a film of unknown maturity is for adults.
        """
        birth_year = self.users.birth_year[[user]]
        bit = eligibility_bit(self.users.country[user], age_class_of(birth_year, year_of(time_us // DAY_US))[0])
        allowed: np.ndarray = (self._eligibility >> bit) & np.uint64(1) == 1
        allowed &= self.films.licensed_at(time_us)
        return allowed

    def best_list(
        self,
        user: int,
        time_us: int,
        k: int = 20,
        excluded: np.ndarray | Sequence[int] = (),
        rules: bool = True,
        reward: Reward = "click",
        device: str | None = None,
    ) -> np.ndarray:
        """The k films of the greatest expected reward, best first: int64[<= k] rows, ties by the lower row.

        With `rules`, only films that the user may see; without, any in the catalogue. `excluded` are rows that
        must not be in it, such as films watched before. Fewer than k come back where no more are left.
        """
        allowed = self.eligible(user, time_us) if rules else np.ones(self.films.count, dtype=bool)
        allowed[np.asarray(excluded, dtype=np.int64)] = False
        rows = np.flatnonzero(allowed)
        if not len(rows):
            return rows
        probability = self.reward_probability(user, rows, time_us, reward, device)
        return rows[np.argsort(-probability, kind="stable")[:k]]

    def respond(
        self,
        user_id: str,
        item_ids: Sequence[str],
        time_us: int,
        rng: np.random.Generator,
        prediction_id: str,
        session_id: str,
        device: str | None = None,
        watched: Sequence[str] = (),
    ) -> tuple[pa.Table, pa.Table]:
        """What a user does with a served list: (impressions, events), in the declared schemas.

        `item_ids` from the top, without repeats. Films in `watched` are seen but passed over. Events may lie
        hours after `time_us`, and be ingested later still.

        Raises:
            NotFound: a user or film that is not of this world.
            InvalidRequest: an unknown device, or a film twice in the list.
        """
        items = self.item_rows(item_ids)
        if len(np.unique(items)) < len(items):
            raise InvalidRequest("item_ids", "a film stands in the list twice")
        barred = np.isin(items, self.item_rows(watched))
        visits = self._visits(self.user_rows([user_id]), np.array([time_us]), device)
        pages = Pages(np.zeros(len(items), dtype=np.int32), items, np.arange(len(items), dtype=np.int32))
        logits = self._film_logits(time_us // DAY_US)
        outcomes = draw_outcomes(rng, self.users, self.films, logits, visits, pages, barred)
        ids = LiveIds(prediction_id, session_id)
        return self._log.impressions(ids, visits, outcomes), self._log.events(ids, visits, outcomes)

    def _visits(self, user: np.ndarray, time_us: np.ndarray, device: np.ndarray | str | None) -> Visits:
        if device is None:
            codes = self.users.main_device[user]
        elif isinstance(device, str):
            if device not in DEVICES:
                raise InvalidRequest("device", f"{device!r} is not one of {', '.join(DEVICES)}")
            codes = np.full(len(user), DEVICES.index(device), dtype=np.int8)
        else:
            codes = np.broadcast_to(np.asarray(device, dtype=np.int8), user.shape)
        return Visits(user, np.asarray(time_us, dtype=np.int64), codes, self.users.country[user])
