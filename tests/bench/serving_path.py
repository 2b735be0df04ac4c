"""The serving path in one process: `python -m tests.bench.serving_path [--requests N] [--items N] [--parts a,b]`.

Every comparison is made side by side in one run: short blocks of answers alternate with blocks of the bare library
calls, and of the other bundles. Writes `build/reports/serving_path.json`.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
from rich.console import Console

from serving.features.online import open_reader
from tests.bench.serving_bundle import NEURAL, TREES, BundleWorld, WorldSize, open_bundles, run_as_replica, user_ids
from tests.bench.serving_memory import measure_memory, measure_start
from tests.bench.serving_subject import FLOOR_PARTS, Floor, answer, open_application, query_of
from tests.bench.serving_users import feast_store, redis_store, sqlite_store, world_config
from training.evaluate.report import Row, at_most, report_table, write_report

Action = Callable[[int], object]
SMALL_ITEMS = 10_000
BLOCK = 20
WARM_UP = 200
TRACED = 300
FEAST_READS = 200
USERS_OF_FLOOR = 400


def main() -> None:
    """Measures the chosen parts, prints the table and writes the report."""
    run_as_replica()
    arguments = _arguments()
    world = open_bundles(WorldSize(items=arguments.items))
    config = world_config(world)
    parts: dict[str, Callable[[], list[Row]]] = {
        "latency": lambda: measure_latency(world, config, arguments.requests),
        "reads": lambda: measure_reads(world, arguments.requests),
        "memory": lambda: measure_memory(world, config, arguments.memory_requests),
        "start": lambda: measure_start(world, config),
    }
    rows = list(chain.from_iterable(parts[part]() for part in arguments.parts.split(",")))
    Console(width=160).print(report_table("serving path, in process", rows))
    print(f"written to {write_report('serving_path', rows)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--memory-requests", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--parts", default="latency,reads,memory,start")
    return parser.parse_args()


def measure_latency(world: BundleWorld, config: Path, requests: int) -> list[Row]:
    """The whole path with both rankers and on a small catalogue, each beside its floor."""
    users = user_ids(world.size)
    small = open_bundles(WorldSize(items=SMALL_ITEMS))
    neural = open_application(world.bundle(), config)
    trees = open_application(world.bundle(TREES), world_config(world, TREES))
    little = open_application(small.bundle(), world_config(small))
    online, some = sqlite_store(world).path, users[:USERS_OF_FLOOR]
    floors = {kind: Floor(world.bundle(kind), online, app, some) for kind, app in ((NEURAL, neural), (TREES, trees))}
    ms = alternate(
        {
            "neural": answers(neural, users),
            "neural floor": floors[NEURAL],
            "small": answers(little, users),
            "trees": answers(trees, users),
            "trees floor": floors[TREES],
        },
        requests,
    )
    p50 = {name: float(np.median(values)) for name, values in ms.items()}
    sizes = f"{world.size.items:,} items x {world.size.dimension}"
    how = f"{requests} users, k 20, SQLite, blocks of {BLOCK} in turn"
    return [
        at_most(f"answer, neural, {sizes}: p50", p50["neural"], 1.1, "ms", how),
        Row(f"answer, neural, {sizes}: p99", np.quantile(ms["neural"], 0.99), "ms", how=how),
        at_most("answer / bare library calls, neural", p50["neural"] / floor_of(floors[NEURAL]), 1.3, "x", how),
        at_most(f"answer, {sizes} / {small.size.items:,} items", p50["neural"] / p50["small"], 1.3, "x", how),
        Row(f"answer, neural, {small.size.items:,} items: p50", p50["small"], "ms", how=how),
        Row(f"answer, trees, {sizes}: p50", p50["trees"], "ms", how=how),
        Row(f"answer, trees, {sizes}: p99", np.quantile(ms["trees"], 0.99), "ms", how=how),
        Row("answer / bare library calls, trees", p50["trees"] / floor_of(floors[TREES]), "x", how=how),
        *floor_rows("neural", floors[NEURAL]),
        *floor_rows("trees", floors[TREES]),
        *stage_rows("neural", neural, users, p50["neural"]),
        *stage_rows("trees", trees, users, p50["trees"]),
    ]


def measure_reads(world: BundleWorld, requests: int) -> list[Row]:
    """One user's features from both stores, beside a bare PING and Feast's SDK."""
    users = user_ids(world.size)
    sqlite, stores = sqlite_store(world), {}
    with redis_store(world) as redis:
        actions: dict[str, Action] = {"sqlite": reads(open_reader(sqlite), users)}
        if redis is not None:
            import redis as client

            ping = client.Redis.from_url(redis.url)
            actions |= {"redis": reads(open_reader(redis), users), "ping": lambda _: ping.ping()}
        p50 = {name: float(np.median(ms)) for name, ms in alternate(actions, requests).items()}
        stores = {"sqlite": sqlite} | ({} if redis is None else {"redis": redis})
        feast = {name: feast_p50(world, store, users) for name, store in stores.items()}
    how = f"{requests} users in turn, 148 statistics and {world.size.history} films of history each"
    rows = [
        at_most("one user from SQLite: p50", p50["sqlite"], 0.10, "ms", how),
        Row("the same by Feast's SDK: p50", feast["sqlite"], "ms", how=f"{FEAST_READS} get_online_features"),
    ]
    if "redis" not in p50:
        return [*rows, not_measured("one user from Redis less a bare PING: p50", "redis-server is not installed")]
    return [
        *rows,
        at_most("one user from Redis less a bare PING: p50", p50["redis"] - p50["ping"], 0.15, "ms", how),
        Row("one user from Redis: p50", p50["redis"], "ms", how=how),
        Row("a bare PING of Redis: p50", p50["ping"], "ms", how=how),
        Row("the same by Feast's SDK from Redis: p50", feast["redis"], "ms", how=f"{FEAST_READS} get_online_features"),
    ]


def alternate(actions: Mapping[str, Action], count: int) -> dict[str, np.ndarray]:
    """Milliseconds float64[count] of each action, called with 0, 1, 2, ...; blocks of the actions take turns."""
    for act in actions.values():
        for place in range(WARM_UP):
            act(place)
    for act in actions.values():
        if isinstance(act, Floor):
            act.forget()
    ms: dict[str, list[float]] = {name: [] for name in actions}
    clock = time.perf_counter
    for start in range(0, count, BLOCK):
        for name, act in actions.items():
            for place in range(start, min(start + BLOCK, count)):
                started = clock()
                act(place)
                ms[name].append((clock() - started) * 1000)
    return {name: np.array(values) for name, values in ms.items()}


def answers(application: object, users: list[str]) -> Action:
    """Answers the request of the user at a place; requests are ready before the clock starts."""
    queries = [query_of(user, place) for place, user in enumerate(users)]
    return lambda place: answer(application, queries[place % len(queries)])


def reads(reader: object, users: list[str]) -> Action:
    """Reads the user at a place."""
    read = reader.read  # type: ignore[attr-defined]
    return lambda place: read(users[place % len(users)])


def feast_p50(world: BundleWorld, online: object, users: list[str]) -> float:
    """Median milliseconds of reading one user through Feast's SDK."""
    from training.features.repository import USER_SERVICE

    store = feast_store(world, online)  # type: ignore[arg-type]
    service = store.get_feature_service(USER_SERVICE)
    ms = []
    for place in range(FEAST_READS):
        started = time.perf_counter()
        store.get_online_features(service, entity_rows=[{"user_id": users[place % len(users)]}])
        ms.append((time.perf_counter() - started) * 1000)
    return float(np.median(ms))


def floor_of(floor: Floor) -> float:
    """Median of the sum of the bare calls, ms."""
    return float(np.median(np.sum([floor.ms[part] for part in FLOOR_PARTS], axis=0)))


def floor_rows(kind: str, floor: Floor) -> list[Row]:
    """The floor and its parts."""
    how = "bare library calls on ready inputs, one after another"
    parts = [Row(f"  floor, {kind}: {part}", np.median(floor.ms[part]), "ms", how=how) for part in FLOOR_PARTS]
    return [Row(f"floor, {kind}: p50 of the sum", floor_of(floor), "ms", how=how), *parts]


def stage_rows(kind: str, application: object, users: list[str], whole_ms: float) -> list[Row]:
    """Where the time goes by the trace of explained answers, and what no stage accounts for."""
    found: dict[str, list[float]] = {}
    served_by: dict[str, int] = {}
    for place in range(TRACED):
        answered = answer(application, query_of(users[-1 - place], place, explain=True))
        served_by[answered.served_by] = served_by.get(answered.served_by, 0) + 1
        for stage in (answered.trace or {}).get("stages", ()):
            found.setdefault(stage["stage"], []).append(stage["ms"])
    how = f"trace of {TRACED} explained answers: " + ", ".join(f"{n} by {by}" for by, n in served_by.items())
    medians = {name: float(np.median(values)) for name, values in found.items()}
    rows = [Row(f"  stage, {kind}: {name}", value, "ms", how=how) for name, value in medians.items()]
    return [*rows, Row(f"  stage, {kind}: all else", whole_ms - sum(medians.values()), "ms", how="p50 less the stages")]


def not_measured(name: str, why: str, unit: str = "", target: str | None = None) -> Row:
    """A row for what is absent: never a number."""
    return Row(name, float("nan"), unit, target, how=f"not measured: {why}")


if __name__ == "__main__":
    main()
