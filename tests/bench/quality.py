"""Ranking quality on MovieLens and in StreamFlix: `make quality`.

`python -m tests.bench.quality movielens` (or `streamflix`) measures one of them. MovieLens (ml-latest-small):
leave-last-out by timestamp (ties by the highest item id), full ranking, what the user rated before left out. The test
ratings are taken out of the data before they are imported, so that nothing can see them; settings were chosen on the
rating before (`examples/movielens.yaml`). StreamFlix: the default world, where the truth is known; requests of the
held-out week.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from rich.console import Console

from serving.apps.recommend import Part, Recommender
from serving.bundles.bundle import Bundle
from serving.config import SieveConfig, load_config
from serving.core.candidates import Candidates
from serving.core.request import Request as Resolved
from serving.core.stages import Pipeline, Scored, Step
from serving.features.item_table import ALWAYS_US, EVERYWHERE, NEVER_US, ItemTable
from training.config import LambdaMartSettings, training_config
from training.data.movielens import import_movielens
from training.data.splits import item_ranks
from training.data.tables import Lake
from training.evaluate import metrics
from training.evaluate.as_served import ALONE, SERVED, Holdout, answer_all
from training.evaluate.bootstrap import paired_difference
from training.evaluate.report import Row, at_least, report_table, write_report
from training.jobs.draft import APP
from training.jobs.ranker_rows import Request
from training.jobs.ray_train import ray_session
from training.jobs.recommend import RecommendTraining
from training.jobs.retrieval import open_retrieval
from training.jobs.stages import execute, open_run
from training.models.lambdamart import LambdaMart, fit_lambdamart
from training.models.ranker import RankerRows
from training.simulate.batch import simulate
from training.simulate.world import World, WorldSettings

ROOT = Path(__file__).parents[2]
MOVIELENS = ROOT.parent / "shared/data/ml-latest-small"
SAMPLES, SEED = 10_000, 7
EASE = {"ndcg@10": 0.0409, "recall@50": 0.2770}
POPULARITY_NDCG = 0.0194
TRUTH_REQUESTS = 600
TOP_FEATURES = 20

PerUser = NDArray[np.float64]


def main(wanted: list[str]) -> None:
    """Measures what is asked for, everything without arguments, and writes `build/reports/quality.json`."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="quality-") as folder, ray_session():
        if not wanted or "movielens" in wanted:
            rows += measure_movielens(Path(folder) / "movielens")
        if not wanted or "streamflix" in wanted:
            rows += measure_streamflix(Path(folder) / "streamflix")
    Console(width=160).print(report_table("quality", rows))
    print(f"written to {write_report('quality', rows)}")


def measure_movielens(root: Path) -> list[Row]:
    """Every model alone and the pipeline as served, against popularity and EASE; empty without the data set."""
    if not MOVIELENS.is_dir():
        print(f"MovieLens is left out: there is no {MOVIELENS}")
        return []
    held_out = _without_last_ratings(root / "data")
    job = _trained(ROOT / "examples/movielens.yaml", root, lambda lake: import_movielens(lake, root / "data"))
    execute(job.run, job.release[:2], print, first=len(job.learning) + 1)
    holdout = _test_requests(job, held_out)
    recommender = Recommender(Bundle.load(job.run.output("bundle") / APP, verify=False))
    job.replay.item_table = _whole_catalogue(job.replay.item_table)  # type: ignore[method-assign]
    lists = answer_all(recommender, job.replay, holdout, {SERVED: None, **ALONE})
    relevant = holdout.relevant
    ndcg = {name: metrics.ndcg(found, relevant, 10, graded=False) for name, found in lists.items()}
    how = "leave-last-out, full ranking of all films, test ratings not in the data"
    rows = []
    for name, found in lists.items():
        recall = metrics.recall(found, relevant, 50).mean()
        hits = metrics.hit_rate(found, relevant, 10).mean()
        served = name == SERVED
        rows += [
            at_least(f"movielens {name} NDCG@10", ndcg[name].mean(), EASE["ndcg@10"], how=f"{how}; target: EASE")
            if served
            else Row(f"movielens {name} NDCG@10", ndcg[name].mean(), how=how),
            Row(f"movielens {name} HR@10", hits, how=how),
            at_least(f"movielens {name} Recall@50", recall, EASE["recall@50"], how=f"{how}; target: EASE")
            if served
            else Row(f"movielens {name} Recall@50", recall, how=how),
        ]
    return rows + _differences("movielens", ndcg, "NDCG@10")


def measure_streamflix(root: Path) -> list[Row]:
    """NDCG@20 and the share of the best possible true reward of each part, and of a ranker on its top features."""
    settings = WorldSettings()
    job = _trained(None, root, lambda lake: simulate(lake, settings))
    world = World(settings)
    everyone = job.holdout
    step = max(len(everyone.requests) // TRUTH_REQUESTS, 1)
    chosen = slice(None, None, step)
    holdout = Holdout(
        everyone.requests[chosen], everyone.prior, everyone.prior_by_user[chosen], everyone.country[chosen]
    )
    recommender = Recommender(Bundle.load(job.run.output("candidate") / APP, verify=False))
    lists = answer_all(recommender, job.replay, holdout, {SERVED: None, **ALONE})
    lists |= _ranked_alone(job, holdout)
    relevant = holdout.relevant
    ndcg = {name: metrics.ndcg(found, relevant, 20) for name, found in lists.items()}
    best = _best_rewards(world, job, holdout)
    how = f"default world, {len(holdout.requests)} requests of the held-out week"
    rows = []
    for name, found in lists.items():
        share = _rewards(world, job, holdout, found).sum() / best.sum()
        rows.append(Row(f"streamflix {name} share of the best expected clicks", share, how=how))
        rows.append(Row(f"streamflix {name} NDCG@20", ndcg[name].mean(), how=how))
    return rows + _differences("streamflix", ndcg, "NDCG@20")


def _differences(world: str, values: Mapping[str, PerUser], metric: str) -> list[Row]:
    rows = []
    for name in ("popular", "item_to_item", "two_tower", "ranker, top 20 features"):
        if name in values:
            found = paired_difference(values[SERVED], values[name], SAMPLES, SEED)
            how = f"paired bootstrap, 95 % interval {found.low:+.4f} to {found.high:+.4f}"
            rows.append(Row(f"{world} served - {name}, {metric}", found.mean, how=how))
    return rows


def _trained(settings: Path | None, root: Path, fill: object) -> RecommendTraining:
    """A run up to its evaluation in a lake of its own."""
    document = yaml.safe_load(settings.read_text()) if settings else {}
    root.mkdir(parents=True, exist_ok=True)
    path = root / "sieve.yaml"
    path.write_text(
        yaml.safe_dump(document | {"root": "state", "online_store": {"type": "sqlite", "path": "online.db"}})
    )
    config: SieveConfig = load_config(path)
    fill(Lake(config.lake))  # type: ignore[operator]
    job = RecommendTraining(config, training_config(config), open_run(config.runs, APP, {}, resume=False), print)
    execute(job.run, job.learning, print)
    return job


def _without_last_ratings(folder: Path) -> dict[str, tuple[str, int]]:
    """Writes MovieLens without each user's last rating; returns that rating's film and second by user."""
    ratings = pq.read_table(MOVIELENS / "ratings.parquet")
    user = ratings["userId"].to_numpy().astype(np.int64)
    second = ratings["timestamp"].to_numpy().astype(np.int64)
    order = np.lexsort((item_ranks(ratings["movieId"]), second, user))
    last = order[np.append(np.diff(user[order]) != 0, True)]
    keep = np.ones(len(user), np.bool_)
    keep[last] = False
    folder.mkdir(parents=True)
    pq.write_table(ratings.filter(pa.array(keep)), folder / "ratings.parquet")
    pq.write_table(pq.read_table(MOVIELENS / "movies.parquet"), folder / "movies.parquet")
    films = ratings["movieId"].to_numpy()
    return {str(user[row]): (str(films[row]), int(second[row])) for row in last}


def _test_requests(job: RecommendTraining, held_out: Mapping[str, tuple[str, int]]) -> Holdout:
    """One request per user just after everything but the test rating; the rating itself is not in the lake."""
    rows = {item: row for row, item in enumerate(job.replay.item_ids)}
    users = {bytes(user).decode(): row for row, user in enumerate(job.entities.user_ids.tolist())}
    requests = [
        Request(users[user], second * 1_000_000 + 1, None, None, np.array([rows[film]], np.int32), np.ones(1, np.int8))
        for user, (film, second) in held_out.items()
    ]
    taken = job.interactions
    requests.sort(key=lambda r: r.time_us)
    rows_of = np.array([r.user for r in requests])
    return Holdout(
        requests,
        np.bincount(taken.item, minlength=taken.n_items),
        np.bincount(taken.user, minlength=taken.n_users)[rows_of],
        job.entities.country[rows_of],
    )


def _whole_catalogue(item_table: Callable[[int], ItemTable]) -> Callable[[int], ItemTable]:
    """Makes every film eligible at any time: the published figures rank films of later years too."""
    last: list[tuple[ItemTable, ItemTable]] = []

    def opened(time_us: int) -> ItemTable:
        table = item_table(time_us)
        if not last or last[0][0] is not table:
            everything = replace(
                table,
                maturity=np.zeros_like(table.maturity),
                licence_start_us=np.full_like(table.licence_start_us, NEVER_US),
                licence_end_us=np.full_like(table.licence_end_us, ALWAYS_US),
                country_mask=np.full_like(table.country_mask, EVERYWHERE),
                available_at_us=np.full_like(table.available_at_us, NEVER_US),
            )
            last[:] = [(table, everything)]
        return last[0][1]

    return opened


def _ranked_alone(job: RecommendTraining, holdout: Holdout) -> dict[str, NDArray[np.int32]]:
    """The lists of a ranker trained on the features with the most gain in the one that serves."""
    settings = job.training.ranker
    assert isinstance(settings, LambdaMartSettings)
    full = LambdaMart.load(job.run.output("ranker") / "model")
    gain = full.booster.get_score(importance_type="total_gain")
    columns = sorted(sorted((int(name[1:]) for name in gain), key=lambda c: -gain[f"f{c}"])[:TOP_FEATURES])
    rows = RankerRows.open(job.run.output("ranker_rows"))
    narrow = RankerRows(np.ascontiguousarray(rows.features[:, columns]), rows.grade, rows.group_sizes)
    model = fit_lambdamart(narrow, settings, job.training.seed)
    print("top features: " + ", ".join(job.replay.features.names[c] for c in columns))
    recommender = Recommender(open_retrieval(job.run.output("retrieval_t2"), job.config, APP))
    retrieval = recommender.pipelines[Part.RETRIEVAL]
    ranker = Step(_NarrowRanker(recommender, model, columns))
    recommender.pipelines[Part.RANKED] = Pipeline(
        "narrow", retrieval.sources, retrieval.merge, (*retrieval.stages, ranker)
    )
    name = f"ranker, top {TOP_FEATURES} features"
    return answer_all(recommender, job.replay, holdout, {name: Part.RANKED})


class _NarrowRanker:
    """A scorer that reads some of the features."""

    name = "narrow"

    def __init__(self, recommender: Recommender, model: LambdaMart, columns: list[int]) -> None:
        self._recommender = recommender
        self._model = model
        self._columns = columns

    def score(self, request: Resolved, candidates: Candidates) -> Scored:
        features = self._recommender.request_features.matrix(request, candidates.row)
        return Scored(self._model.score(features[:, self._columns]))


def _best_rewards(world: World, job: RecommendTraining, holdout: Holdout) -> PerUser:
    users = np.array([r.user for r in holdout.requests], np.int32)
    times = np.array([r.time_us for r in holdout.requests], np.int64)
    best = []
    for request, state in zip(holdout.requests, job.replay.states(users, times), strict=True):
        user = int(world.user_rows([state.user_id])[0])
        seen = world.item_rows(state.seen) if state.seen else ()
        top = world.best_list(user, request.time_us, 20, excluded=seen)
        best.append(world.expected_reward(user, top, request.time_us))
    return np.array(best)


def _rewards(world: World, job: RecommendTraining, holdout: Holdout, lists: NDArray[np.int32]) -> PerUser:
    items = world.item_rows(job.replay.item_ids)
    ids = job.entities.user_ids
    users = world.user_rows([bytes(ids[r.user]).decode() for r in holdout.requests])
    top = lists[:, :20]
    return np.array(
        [
            world.expected_reward(int(user), items[rows[rows >= 0]], request.time_us)
            for user, request, rows in zip(users, holdout.requests, top, strict=True)
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
