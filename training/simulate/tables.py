"""Arrow tables of a world in the declared schemas."""

from typing import Protocol

import numpy as np
import pyarrow as pa

from training.data.schemas import EVENTS, IMPRESSIONS, ITEMS, USERS, EventType
from training.simulate.choice import Visits
from training.simulate.clock import ALWAYS_US, NEVER_US, Stream, stream
from training.simulate.columns import digits, fixed_strings, ragged, timestamps, words
from training.simulate.films import UNKNOWN_MATURITY, Films
from training.simulate.ids import entity_ids, entity_words
from training.simulate.names import film_titles, people_names, sequel_titles
from training.simulate.outcomes import Kind, Outcomes
from training.simulate.places import COUNTRIES, DEVICES, LANGUAGES, PROVIDERS
from training.simulate.tastes import GENRES
from training.simulate.users import Users

_TYPE_OF_KIND = {
    Kind.CLICK: EventType.CLICK,
    Kind.PLAY: EventType.PLAY,
    Kind.COMPLETION: EventType.COMPLETION,
    Kind.RATING: EventType.RATING,
    Kind.LIST_ADD: EventType.LIST_ADD,
    Kind.SECOND_PLAY: EventType.PLAY,
    Kind.SECOND_COMPLETION: EventType.COMPLETION,
}
_TYPES = tuple(_TYPE_OF_KIND[kind].value for kind in Kind)


class PageIds(Protocol):
    """Where the ids of pages and of what happened on them come from."""

    def predictions(self, visit: np.ndarray) -> pa.Array: ...
    def sessions(self, visit: np.ndarray) -> pa.Array: ...
    def impressions(self, visit: np.ndarray, position: np.ndarray) -> pa.Array: ...
    def events(self, visit: np.ndarray, position: np.ndarray, kind: np.ndarray) -> pa.Array: ...


class LogTables:
    """Writes outcomes as impressions and events tables; holds the ids of all users and films."""

    def __init__(self, users: int, items: int) -> None:
        self._users, self._items = entity_words("u", users), entity_words("i", items)

    def impressions(self, ids: PageIds, visits: Visits, outcomes: Outcomes, before_us: int = NEVER_US) -> pa.Table:
        """Impressions that were ingested before a time, in order of visits and positions."""
        kept = outcomes.seen_ingested_us < before_us
        row = slice(None) if kept.all() else np.flatnonzero(kept)
        pages = outcomes.pages
        visit, item, position = pages.visit[row], pages.item[row], pages.position[row]
        columns = [
            ids.impressions(visit, position),
            *self._page_columns(ids, visits, visit, item),
            pa.array(position),
            words(DEVICES, visits.device[visit]),
            words(COUNTRIES, visits.country[visit]),
            timestamps(outcomes.seen_us[row]),
            timestamps(outcomes.seen_ingested_us[row]),
        ]
        return pa.Table.from_arrays(columns, schema=IMPRESSIONS.arrow)

    def events(self, ids: PageIds, visits: Visits, outcomes: Outcomes, before_us: int = NEVER_US) -> pa.Table:
        """Events that were ingested before a time, in order of their time."""
        kept = np.flatnonzero(outcomes.ingested_us < before_us)
        row, kind, value = outcomes.row[kept], outcomes.kind[kept], outcomes.value[kept]
        pages = outcomes.pages
        visit, item, position = pages.visit[row], pages.item[row], pages.position[row]
        columns = [
            ids.events(visit, position, kind),
            *self._page_columns(ids, visits, visit, item),
            words(_TYPES, kind),
            pa.array(value, mask=np.isnan(value)),
            words(DEVICES, visits.device[visit]),
            words(COUNTRIES, visits.country[visit]),
            timestamps(outcomes.time_us[kept]),
            timestamps(outcomes.ingested_us[kept]),
        ]
        return pa.Table.from_arrays(columns, schema=EVENTS.arrow)

    def _page_columns(self, ids: PageIds, visits: Visits, visit: np.ndarray, item: np.ndarray) -> list[pa.Array]:
        return [
            ids.predictions(visit),
            ids.sessions(visit),
            entity_ids(self._users, visits.user[visit]),
            entity_ids(self._items, item),
        ]


def users_table(users: Users) -> pa.Table:
    """The users as declared; an unknown birth year is null."""
    count = len(users.country)
    return pa.Table.from_arrays(
        [
            entity_ids(entity_words("u", count), np.arange(count)),
            pa.array(users.birth_year.astype(np.int32), mask=users.birth_year == 0),
            words(COUNTRIES, users.country),
            timestamps(users.created_us),
            timestamps(users.ingested_us),
        ],
        schema=USERS.arrow,
    )


def items_table(films: Films, seed: int) -> pa.Table:
    """The films as declared; open licences, unknown maturities, no franchise and no other edition are null."""
    rng = stream(seed, Stream.FILMS, 2)
    titles = sequel_titles(film_titles(rng, films.count), films.leader, films.part, films.edition)
    return pa.Table.from_arrays(
        [
            entity_ids(entity_words("i", films.count), np.arange(films.count)),
            titles,
            ragged(films.genres, pa.array(GENRES)),
            ragged(films.cast, people_names(rng, films.people)),
            pa.array(films.year.astype(np.int32)),
            pa.array(films.maturity.astype(np.int32), mask=films.maturity == UNKNOWN_MATURITY),
            pa.array(films.duration_s),
            words(PROVIDERS, films.provider),
            _franchises(films),
            _editions(films),
            words(LANGUAGES, films.language),
            _licensed_countries(films),
            timestamps(films.licence_start_us, films.licence_start_us == ALWAYS_US),
            timestamps(films.licence_end_us, films.licence_end_us == NEVER_US),
            timestamps(films.available_us),
            timestamps(films.ingested_us),
        ],
        schema=ITEMS.arrow,
    )


def _franchises(films: Films) -> pa.Array:
    return _numbered(_FRANCHISE, films.franchise)


def _editions(films: Films) -> pa.Array:
    """The franchise's number for its first film and that film's other editions, where it has any."""
    rows = np.flatnonzero(films.edition)
    edition = np.full(films.count, -1, dtype=np.int32)
    edition[rows] = films.franchise[rows]
    edition[films.leader[rows]] = films.franchise[rows]
    return _numbered(_EDITION, edition)


def _numbered(prefix: np.ndarray, number: np.ndarray) -> pa.Array:
    """`prefix-000001` for the number 0, and so on; null for -1."""
    count = int(number.max(initial=-1)) + 1
    names = fixed_strings(np.hstack([np.tile(prefix, (count, 1)), digits(np.arange(1, count + 1), 6)]))
    return names.take(pa.array(number, mask=number < 0))


def _licensed_countries(films: Films) -> pa.Array:
    """Country codes in order, null where a film is licensed everywhere."""
    places = np.arange(len(COUNTRIES))
    licensed = (films.countries[:, None] >> places.astype(np.uint16)) & np.uint16(1) == 1
    offsets = np.concatenate([[0], licensed.sum(axis=1).cumsum()]).astype(np.int32)
    values = words(COUNTRIES, np.broadcast_to(places, licensed.shape)[licensed])
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(films.countries == 0))


_FRANCHISE = np.frombuffer(b"franchise-", dtype=np.uint8)
_EDITION = np.frombuffer(b"edition-", dtype=np.uint8)
