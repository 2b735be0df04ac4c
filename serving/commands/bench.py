"""`sieve bench`: load and latency of a running server, with its transport's floor beside each figure."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer
from rich.console import Console
from rich.table import Table

from serving.commands.http_load import Endpoint, Load, closed_loop
from serving.durable import write_json
from serving.errors import ConfigError, DependencyError

RECOMMEND, FLOOR = "/v1/recommend", "/healthz"
SYNTHETIC_USERS = 1000
MAX_USERS = 1_000_000
PROBES = 20
TIMEOUT_S = 30.0

app = typer.Typer(help="Load and latency of a running server.")


@dataclass(frozen=True)
class Figure:
    """One measured number; `target` and `met` are None: what is enough is for the user to say."""

    name: str
    value: float | None
    unit: str
    how: str
    target: str | None = None
    met: bool | None = None


@app.callback(invoke_without_command=True)
def bench_command(
    url: Annotated[str, typer.Option(help="the server")] = "http://127.0.0.1:8000",
    connections: Annotated[int, typer.Option(min=1, max=1024, help="clients of the loaded run")] = 16,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="length of each of the two runs")] = 10.0,
    users: Annotated[Path | None, typer.Option(help="user ids, one a line; else u0000000 to u0000999")] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="items asked for")] = 20,
    token_file: Annotated[Path | None, typer.Option(help="a file that holds the bearer token")] = None,
    report: Annotated[Path | None, typer.Option(help="where to write the rows as JSON")] = None,
) -> None:
    """Measures one client, then many, in closed loops; exits with 1 where a request failed."""
    headers = {} if token_file is None else {"authorization": f"Bearer {_read(token_file).strip()}"}
    target = Endpoint.of(url, RECOMMEND, headers)
    bodies = [request_body(user, k) for user in user_ids(users)]
    requests = [target.post(body) for body in bodies]
    served = probe(url, headers, bodies[:PROBES])
    floor = closed_loop(target, [Endpoint.of(url, FLOOR).get()], 1, min(seconds, 2.0))
    one = closed_loop(target, requests, 1, seconds)
    many = closed_loop(target, requests, connections, seconds)
    figures = figures_of(one, many, floor, connections, served)
    if report is not None:
        write_json(report, [asdict(figure) for figure in figures])
    Console().print(_table(url, figures))
    if one.failed or many.failed:
        raise typer.Exit(1)


def figures_of(one: Load, many: Load, floor: Load, connections: int, served: Counter[str]) -> list[Figure]:
    """The rows of a run."""
    alone, crowd = "one client, closed loop", f"{connections} clients, closed loop, this program included"
    outcomes = one.outcomes + many.outcomes
    failed = {outcome: count for outcome, count in outcomes.items() if not outcome.startswith("2")}
    return [
        _figure("p50 of one client", one.quantile(0.5), "ms", alone),
        _figure("p99 of one client", one.quantile(0.99), "ms", alone),
        _figure("  floor: p50 of the same client", floor.quantile(0.5), "ms", f"GET {FLOOR}, which does nothing"),
        _figure("requests a second", many.per_second, "/s", crowd),
        _figure("p50 under load", many.quantile(0.5), "ms", crowd),
        _figure("p99 under load", many.quantile(0.99), "ms", crowd),
        _figure("requests", sum(outcomes.values()), "", f"{one.seconds + many.seconds:.1f} s in all"),
        _figure("  failed", one.failed + many.failed, "", _listed(failed) or "none"),
        *(_figure(f"  answered by {by}", n / served.total(), "share", f"{PROBES} probes") for by, n in served.items()),
    ]


def probe(url: str, headers: dict[str, str], bodies: Sequence[bytes]) -> Counter[str]:
    """What answers a few requests (`served_by`), before anything is measured.

    Raises:
        DependencyError: nobody answers there, or not as a server of recommendations does; with its own words.
    """
    found: Counter[str] = Counter()
    for body in bodies:
        request = Request(f"{url.rstrip('/')}{RECOMMEND}", body, {"content-type": "application/json", **headers})
        try:
            with urlopen(request, timeout=TIMEOUT_S) as response:
                answered = json.load(response)
        except HTTPError as error:
            raise DependencyError(f"{url} answers {error.code}: {_detail(error)}") from None
        except (OSError, ValueError) as error:
            raise DependencyError(f"{url} does not answer: {error}") from None
        found[str(answered.get("served_by")) if isinstance(answered, dict) else "something else"] += 1
    return found


def request_body(user: str, k: int) -> bytes:
    """The JSON of one request."""
    return json.dumps({"user_id": user, "k": k}).encode()


def user_ids(path: Path | None) -> list[str]:
    """The ids in a file, one a line, at most a million; without a file, invented ones.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if path is None:
        return [f"u{i:07}" for i in range(SYNTHETIC_USERS)]
    ids = [line.strip() for line in _read(path).splitlines()[:MAX_USERS] if line.strip()]
    if not ids:
        raise ConfigError("there are no users to ask for", [f"{path} is empty"])
    return ids


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", [str(error)]) from None


def _detail(error: HTTPError) -> str:
    try:
        document: Any = json.loads(error.read())
        return str(document["detail"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _figure(name: str, value: float, unit: str, how: str) -> Figure:
    return Figure(name, None if value != value else float(value), unit, how)


def _listed(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))


def _table(url: str, figures: Sequence[Figure]) -> Table:
    table = Table("name", "value", "unit", "how", title=url)
    for figure in figures:
        value = "none" if figure.value is None else f"{figure.value:,.4g}"
        table.add_row(figure.name, value, figure.unit, figure.how)
    return table
