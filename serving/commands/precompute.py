"""`sieve precompute`: makes every user's list beforehand and stores it beside their features."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from serving.config import RecommendSettings, SieveConfig, load_config
from serving.errors import ConfigError
from serving.features.lists import ListStore, StoredList

if TYPE_CHECKING:
    from serving.apps.recommend import Recommender
    from serving.features.online import UserReader

Report = Callable[[int], None]
APP = "recommend"
LIST_LENGTH = 100
RESUME_WITHIN_US = 12 * 3_600_000_000
BATCH = 500

app = typer.Typer(help="Make every user's list beforehand.", no_args_is_help=True)


@dataclass
class Count:
    """What became of the users."""

    written: int = 0
    resumed: int = 0
    unknown: int = 0


@app.callback()
def _root() -> None:
    """Lists are stored beside the features; how they are served is `recommend.mode`."""


@app.command(APP)
def recommend(
    context: typer.Context,
    users: Annotated[Path | None, typer.Option(help="a file with one user id per line; `-` reads them here")] = None,
    resume: Annotated[bool, typer.Option(help="leave alone what this bundle made in the last 12 hours")] = False,
) -> None:
    """Ranks for every user of the online store, or for those of a file, and stores 100 items for each.

    Lists hold the ranker's order; the rules after it, exploration among them, run when a list is served. A user of
    whom nothing is known gets no list: what is popular is for them.
    """
    config = load_config(Path(context.obj))
    started = time.perf_counter()
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("lists", total=None)
        count = make_lists(config, read_ids(users, config), resume, lambda n: progress.update(task, completed=n))
    seconds = time.perf_counter() - started
    typer.echo(
        f"{count.written:,} lists written in {seconds:.1f} s, {count.resumed:,} were there, "
        f"{count.unknown:,} users have none"
    )


def read_ids(users: Path | None, config: SieveConfig) -> Iterable[str]:
    """The users to make lists for.

    Raises:
        ConfigError: the file cannot be read.
        StoreUnavailable: the online store cannot be read.
    """
    if users is None:
        from serving.features.online_users import user_ids

        return user_ids(config.online_store)
    if str(users) == "-":
        return (line.strip() for line in sys.stdin if line.strip())
    try:
        return [line for line in users.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the users in {users} cannot be read", [str(error)]) from None


def make_lists(config: SieveConfig, ids: Iterable[str], resume: bool, report: Report) -> Count:
    """Makes and stores a list for each user, in batches, so that a kill loses no more than one.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        StoreUnavailable: the online store cannot be read or written; what was written stays.
    """
    from serving.apps.recommend import Recommender
    from serving.bundles.bundle import Bundle
    from serving.bundles.store import BundleStore
    from serving.features.item_table import ItemTable, ItemTablePointer
    from serving.features.lists import open_lists
    from serving.features.online import open_reader

    bundle = Bundle.load(BundleStore(config.bundles).path(APP, config.recommend.bundle))
    current = ItemTablePointer.current(config.item_tables)
    table = None if current is None else ItemTable.load(current)
    recommender = Recommender(bundle, None, table, for_lists(config.recommend))
    reader = open_reader(config.online_store)
    lists, count = open_lists(config.online_store), Count()
    batch: list[StoredList] = []
    for made in _make(recommender, reader, ids, lists if resume else None, count, report):
        batch.append(made)
        if len(batch) == BATCH:
            count.written += lists.write(APP, batch)
            batch = []
    count.written += lists.write(APP, batch)
    return count


def for_lists(settings: RecommendSettings) -> RecommendSettings:
    """The pipeline that lists are made with: no deadline to keep, and nothing that belongs to one answer."""
    k = max(LIST_LENGTH, settings.max_k)
    return settings.model_copy(update={"after": (), "max_k": k, "mode": "realtime"})


def _make(
    recommender: "Recommender",
    reader: "UserReader",
    ids: Iterable[str],
    stored: ListStore | None,
    count: Count,
    report: Report,
) -> Iterator[StoredList]:
    from serving.apps.recommend import Part
    from serving.core.query import Query

    for done, user_id in enumerate(ids, 1):
        report(done)
        now_us = time.time_ns() // 1000
        if stored is not None and _is_fresh(stored.read(APP, user_id), recommender.model.name, now_us):
            count.resumed += 1
            continue
        state = reader.read(user_id)
        request = None if state is None else recommender.resolve(Query(user_id=user_id), state, now_us)
        if request is None or not request.is_known:
            count.unknown += 1
            continue
        best = recommender.run_part(Part.RANKED, request).take(slice(LIST_LENGTH))
        items = tuple(recommender.table().ids_of(best.row))
        yield StoredList(user_id, items, best.score, recommender.model.name, now_us)


def _is_fresh(stored: StoredList | None, bundle: str, now_us: int) -> bool:
    return stored is not None and stored.bundle == bundle and now_us - stored.computed_at_us < RESUME_WITHIN_US
