"""The server under load: `python -m tests.bench.serving_load [--seconds S] [--items N] [--parts a,b]`.

The configured server on a local Ray as `sieve serve` runs it, a trivial application beside it on the same Ray, and a
load generator in a process of its own, all on this machine's cores. Writes `build/reports/serving_load.json`.
"""

import argparse
import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from serving.bundles.store import BundleStore
from serving.commands.http_load import LATE, Endpoint, Load, closed_loop, open_loop
from serving.commands.serve import run_server
from serving.config import SieveConfig, load_config
from tests.bench.serving_bundle import APP, BundleWorld, WorldSize, open_bundles, user_ids
from tests.bench.serving_floor import FLOOR_PREFIX, start_grpc_floor, start_http_floor
from tests.bench.serving_grpc import grpc_p50
from tests.bench.serving_memory import GIB, ask_replica
from tests.bench.serving_path import not_measured
from tests.bench.serving_users import free_port, world_config
from training.evaluate.report import Row, at_least, at_most, report_table, write_report

CLIENTS = 16
OPEN_CONNECTIONS = 64
IN_PROCESS_REQUESTS = 2000
ROUNDS = 3
MOMENT_S = 2.0
"""How long after a swap its effect is looked for."""
POLL_S = 0.1


class Server:
    """A running server, its load generator, and what has been measured of it that later parts need."""

    def __init__(self, url: str, config: SieveConfig, world: BundleWorld, pool: ProcessPoolExecutor, seconds: float):
        self.url, self.config, self.world, self.seconds = url, config, world, seconds
        self._pool = pool
        self.endpoint = Endpoint.of(url, "/v1/recommend")
        users = user_ids(world.size)
        context = {"device": "tv", "country": "DE"}
        self.bodies = [json.dumps({"user_id": user, "k": 20, "context": context}).encode() for user in users]
        self.requests = [self.endpoint.post(body) for body in self.bodies]
        self.capacity = 0.0

    def closed(self, clients: int, seconds: float, endpoint: Endpoint | None = None) -> Load:
        """A closed loop over the users, at another endpoint where one is given."""
        chosen = endpoint or self.endpoint
        requests = self.requests if endpoint is None else [chosen.post(body) for body in self.bodies[:1000]]
        return self._pool.submit(closed_loop, chosen, requests, clients, seconds).result()

    def opened(self, rate: float, seconds: float, meanwhile: Callable[[], None]) -> Load:
        """An open loop over the users, and what is done in the meantime."""
        running = self._pool.submit(open_loop, self.endpoint, self.requests, OPEN_CONNECTIONS, seconds, rate)
        meanwhile()
        return running.result()

    def answer(self, body: bytes) -> dict[str, Any]:
        """One answer."""
        request = urllib.request.Request(f"{self.url}/v1/recommend", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answered: dict[str, Any] = json.load(response)
        return answered

    def bundle(self) -> str:
        """The version that answers."""
        return str(self.answer(self.bodies[0])["bundle"]).rpartition("/")[2]

    def replica(self) -> psutil.Process:
        """The process of the one gateway replica.

        Raises:
            RuntimeError: there is not exactly one.
        """
        found = [p for p in psutil.Process().children(recursive=True) if _is_gateway(p)]
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} gateway replicas, not one")
        return found[0]


def main() -> None:
    """Measures the chosen parts on one server, prints the table and writes the report."""
    arguments = _arguments()
    world = open_bundles(WorldSize(items=arguments.items))
    config = _config(world)
    in_process = ask_replica("latency", config, world.size.users, IN_PROCESS_REQUESTS)["p50"]
    parts: dict[str, Callable[[Server], list[Row]]] = {
        "http": lambda server: measure_http(server, in_process),
        "grpc": lambda server: measure_grpc(server, in_process),
        "swap": measure_swap,
        "kill": measure_kill,
    }
    with _server(config, world, arguments.seconds) as server:
        rows = list(chain.from_iterable(parts[part](server) for part in arguments.parts.split(",")))
    Console(width=160).print(report_table("serving under load", rows))
    print(f"written to {write_report('serving_load', rows)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each run")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--parts", default="http,grpc,swap,kill")
    return parser.parse_args()


def measure_http(server: Server, in_process: float) -> list[Row]:
    """One client beside the transport's floor, and what one replica answers a second."""
    size = len(json.dumps(server.answer(server.bodies[0]), separators=(",", ":")))
    start_http_floor(size)
    floor_endpoint = Endpoint.of(server.url, f"{FLOOR_PREFIX}/v1/recommend")
    alone, floor = [], []
    for _ in range(ROUNDS):
        floor.append(server.closed(1, server.seconds / ROUNDS, floor_endpoint).quantile(0.5))
        alone.append(server.closed(1, server.seconds / ROUNDS))
    p50 = float(np.median([load.quantile(0.5) for load in alone]))
    crowd = server.closed(CLIENTS, server.seconds)
    server.capacity = crowd.per_second
    how = f"{server.world.size.items:,} items, {server.seconds:g} s, one replica, generator on the same cores"
    over = p50 - in_process - float(np.median(floor))
    return [
        Row("HTTP, one client: p50", p50, "ms", how=how),
        Row("  p99", float(np.median([load.quantile(0.99) for load in alone])), "ms", how=how),
        Row("  floor: a trivial application on the same Ray", float(np.median(floor)), "ms", how=f"{size} bytes back"),
        Row("  in process, in the same run", in_process, "ms", how=f"{IN_PROCESS_REQUESTS} users, server idle"),
        at_most("HTTP, one client, over in-process + floor", over, 0.15, "ms", how),
        at_least(f"requests/s, {CLIENTS} clients", crowd.per_second, 750 / in_process, "/s", "0.75 / in-process p50"),
        Row(f"  p50 at {CLIENTS} clients", crowd.quantile(0.5), "ms", how=how),
        Row(f"  p99 at {CLIENTS} clients", crowd.quantile(0.99), "ms", how=how),
        Row("  failed", crowd.failed + sum(load.failed for load in alone), "requests", how=str(dict(crowd.outcomes))),
        Row("private memory of the replica's process, Ray included", _private_gib(server.replica()), "GiB", how=how),
    ]


def measure_grpc(server: Server, in_process: float) -> list[Row]:
    """One client beside the transport's floor."""
    name = "gRPC, one client, over in-process + floor"
    address = f"{server.config.server.host}:{server.config.server.grpc_port}"
    found = grpc_p50(address, server.world.size.users, server.seconds)
    if found is None:
        return [not_measured(name, "nothing answers on the gRPC port", "ms", "≤ 0.15")]
    floor = grpc_p50(f"127.0.0.1:{start_grpc_floor(found.answer)}", server.world.size.users, server.seconds)
    assert floor is not None
    how = f"{server.seconds:g} s each, {len(found.answer)} bytes back, one connection"
    return [
        Row("gRPC, one client: p50", found.p50_ms, "ms", how=how),
        Row("  floor: a trivial handler in an actor of the same Ray", floor.p50_ms, "ms", how=how),
        at_most(name, found.p50_ms - in_process - floor.p50_ms, 0.15, "ms", how),
    ]


def measure_swap(server: Server) -> list[Row]:
    """A newer bundle published under half of the measured load."""
    rate, seconds = _half_capacity(server), 4 * server.seconds
    before, moments = server.bundle(), dict[str, float]()

    def publish() -> None:
        time.sleep(server.seconds)
        newer = _publish_newer(server)
        moments["published"] = time.perf_counter()
        while server.bundle() != newer and time.perf_counter() < moments["published"] + 2 * server.seconds:
            time.sleep(POLL_S)
        moments["swapped"] = time.perf_counter()

    load = server.opened(rate, seconds, publish)
    name = "bundle swap at half the capacity: p99 / p99 before"
    if server.bundle() == before:
        return [not_measured(name, f"{before} still answers {3 * server.seconds:g} s later", "x", "≤ 2")]
    since, until = moments["published"] - load.started_s, moments["swapped"] - load.started_s + MOMENT_S
    calm, busy = load.quantile(0.99, 1.0, since), load.quantile(0.99, since, until)
    how = f"open loop, {rate:.0f} requests/s, {until - since - MOMENT_S:.1f} s from published to in force"
    return [
        at_most("bundle swap at half the capacity: failed", load.failed, 0, "requests", str(dict(load.outcomes))),
        at_most(name, busy / calm, 2, "x", how),
        Row("  p99 before", calm, "ms", how=how),
        Row("  p99 from publishing to 2 s after the swap", busy, "ms", how=how),
        Row("  private memory of the replica's process afterwards", _private_gib(server.replica()), "GiB", how=how),
    ]


def measure_kill(server: Server) -> list[Row]:
    """The only replica killed under half of the measured load: nothing hangs, and it comes back."""
    rate = _half_capacity(server)

    def kill() -> None:
        time.sleep(server.seconds)
        os.kill(server.replica().pid, signal.SIGKILL)

    load = server.opened(rate, 4 * server.seconds, kill)
    ends = np.sort(np.array(load.at_s) + np.array(load.ms) / 1000)
    how = f"open loop, {rate:.0f} requests/s: {dict(load.outcomes)}"
    return [
        at_most("the only replica killed: requests that hang", load.outcomes[LATE], 0, "requests", how),
        Row("  requests that fail", load.failed, "requests", how=how),
        Row("  longest time without an answer", float(np.diff(ends).max(initial=0.0)), "s", how=how),
    ]


def _half_capacity(server: Server) -> float:
    if not server.capacity:
        server.capacity = server.closed(CLIENTS, server.seconds).per_second
    return max(1.0, server.capacity / 2)


def _config(world: BundleWorld) -> Path:
    """A configuration whose bundle store holds the older version only, so that the newer one can be published."""
    root = world.folder / "load"
    shutil.rmtree(root, ignore_errors=True)
    older = world.second_bundle()
    _clone(older, root / "bundles" / APP / older.name)
    path = world_config(world, http_port=free_port(), grpc_port=free_port())
    own = path.with_name("load.yaml")
    own.write_text(path.read_text(encoding="utf-8").replace(str(world.root()), str(root)), encoding="utf-8")
    return own


def _publish_newer(server: Server) -> str:
    newer = server.world.bundle()
    store = BundleStore(server.config.bundles)
    beside = store.root / APP / f".draft-{newer.name}"
    _clone(newer, beside)
    beside.rename(store.root / APP / newer.name)
    return newer.name


def _clone(source: Path, target: Path) -> None:
    """The same files on disk under another folder: bundles never change."""
    shutil.copytree(source, target, copy_function=os.link)


def _is_gateway(process: psutil.Process) -> bool:
    try:
        return "ServeReplica" in " ".join(process.cmdline()) and "Gateway" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _private_gib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / GIB


@contextmanager
def _server(config: Path, world: BundleWorld, seconds: float) -> Iterator[Server]:
    settings = load_config(config)
    # the generator starts before Ray does, and shares nothing with it
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(os.getpid).result()
        with run_server(settings) as url:
            yield Server(url, settings, world, pool, seconds)


if __name__ == "__main__":
    main()
