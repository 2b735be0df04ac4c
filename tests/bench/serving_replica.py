"""What one replica holds and how long it takes to be ready, told by a process of its own.

`python -m tests.bench.serving_replica memory|start|latency|last CONFIG ...` prints one line of JSON. It imports what a
replica imports and nothing else, so it must not import the modules that make the world.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.serving_subject import answer, import_surface, query_of, start_service

WARM_UP = 2000
SETTLED = 10_000


def memory(config: Path, second: str, users: int, requests: int) -> dict[str, Any]:
    """Private and mapped bytes: imported, warm, after 10,000 and all requests, with a second bundle, and without it."""
    seen = {"imported": status_bytes()}
    service = start_service(config)
    seen["loaded"] = status_bytes()
    _ask(service.application, users, 0, WARM_UP)
    seen["warm"] = status_bytes()
    _ask(service.application, users, WARM_UP, min(SETTLED, requests))
    seen["settled"] = status_bytes()
    _ask(service.application, users, SETTLED, requests)
    seen["worn"] = status_bytes()
    _ask(service.versions.hold(second), users, 0, WARM_UP)
    seen["second"] = status_bytes()
    service.versions.drop(second)
    _ask(service.application, users, 0, WARM_UP)
    seen["unloaded"] = status_bytes()
    return seen


def start(config: Path, users: int, launched_s: float) -> dict[str, float]:
    """Seconds from launching this process to each step of being ready; the clock is the machine's monotonic one."""
    import_surface()
    passed = {"imported": time.monotonic() - launched_s}
    service = start_service(config)
    passed["ready"] = time.monotonic() - launched_s
    _ask(service.application, users, 0, 1)
    passed["answered"] = time.monotonic() - launched_s
    return passed


def latency(config: Path, users: int, requests: int) -> dict[str, float]:
    """Median milliseconds of an answer in this process."""
    application = start_service(config).application
    _ask(application, users, 0, WARM_UP)
    queries = [query_of(f"u{place % users:07}", place) for place in range(requests)]
    ms = []
    for query in queries:
        began = time.perf_counter()
        answer(application, query)
        ms.append((time.perf_counter() - began) * 1000)
    return {"p50": statistics.median(ms)}


def last(config: Path, users: int, seconds: float) -> dict[str, int]:
    """Answers for some seconds; how many requests."""
    application = start_service(config).application
    end, place = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        _ask(application, users, place, place + 1)
        place += 1
    return {"answers": place}


def status_bytes() -> dict[str, int]:
    """`RssAnon` and `RssFile` of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name: int(size.split()[0]) * 1024 for name, size in sizes.items()}


def _ask(application: Any, users: int, first: int, last: int) -> None:
    for place in range(first, last):
        answer(application, query_of(f"u{place % users:07}", place))


COMMANDS: dict[str, Any] = {"memory": memory, "start": start, "latency": latency, "last": last}
KINDS: dict[str, tuple[Any, ...]] = {
    "memory": (Path, str, int, int),
    "start": (Path, int, float),
    "latency": (Path, int, int),
    "last": (Path, int, float),
}

if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    print(json.dumps(COMMANDS[what](*(kind(value) for kind, value in zip(KINDS[what], rest, strict=True)))))
