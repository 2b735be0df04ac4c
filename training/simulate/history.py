"""The batch history of a world, day by day and block of users by block, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from training.simulate.clock import DAY_US, Stream, stream
from training.simulate.films import Films
from training.simulate.ids import HistoryIds
from training.simulate.outcomes import draw_outcomes
from training.simulate.policy import HomePage
from training.simulate.settings import WorldSettings
from training.simulate.tables import LogTables
from training.simulate.trends import Trends, film_logits
from training.simulate.users import Users
from training.simulate.visits import draw_visits

USERS_PER_BLOCK = 16_384
"""Users simulated at once. Random streams belong to a day and a block, so this is part of what a world is."""


@dataclass(frozen=True)
class Block:
    """What one block of users did on one day."""

    day: int  # from the history's start
    last_of_day: bool
    impressions: pa.Table
    events: pa.Table

    @property
    def rows(self) -> int:
        """Impressions and events together."""
        return int(self.impressions.num_rows + self.events.num_rows)


def play_history(
    settings: WorldSettings, users: Users, films: Films, trends: Trends, log: LogTables
) -> Iterator[Block]:
    """Every block of every day in order; rows that arrive after the history's end are not in it."""
    first_day = settings.start_us // DAY_US
    home = HomePage(settings, users, films, film_logits(films, trends, first_day))
    blocks = [
        range(start, min(start + USERS_PER_BLOCK, settings.users))
        for start in range(0, settings.users, USERS_PER_BLOCK)
    ]
    for number in range(settings.days):
        day = first_day + number
        logits = film_logits(films, trends, day)
        home.open_day(day)
        for index, rows in enumerate(blocks):
            rng = stream(settings.seed, Stream.SESSIONS, number, index)
            today = draw_visits(rng, users, rows, day)
            pages = home.draw_pages(rng, today.visits)
            outcomes = draw_outcomes(rng, users, films, logits, today.visits, pages)
            opened = outcomes.watched_rows()
            home.observe(today.visits.user[outcomes.pages.visit[opened]], outcomes.pages.item[opened])
            ids = HistoryIds(number, today.visits.user, today.number)
            yield Block(
                day=number,
                last_of_day=index == len(blocks) - 1,
                impressions=log.impressions(ids, today.visits, outcomes, settings.end_us),
                events=log.events(ids, today.visits, outcomes, settings.end_us),
            )
        home.close_day()


def join_days(blocks: Iterator[Block]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """(impressions, events) of each day."""
    day: list[Block] = []
    for block in blocks:
        day.append(block)
        if block.last_of_day:
            yield (
                pa.concat_tables([part.impressions for part in day]),
                pa.concat_tables([part.events for part in day]),
            )
            day = []
