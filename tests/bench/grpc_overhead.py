"""What the gRPC surface costs beside the answer: `python -m tests.bench.grpc_overhead`.

One client against servers in processes of their own: a bare grpc.aio server that returns bytes of the same length,
and the whole of `sieve.v1` over a dataplane that gives the same answer of 20 items at once. The two take turns in
blocks of calls; each figure is the median of the blocks' medians. The translation of messages is measured in this
process. Writes `build/reports/grpc_overhead.json`.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import yaml
from rich.console import Console

from serving.api.auth import Tokens, digest_of, new_token
from serving.api.dataplane import Caller, Readiness
from serving.api.grpc_messages import decode_request, read_fields, write_answer
from serving.api.grpc_server import GrpcServer
from serving.api.protos.sieve.v1 import recommend_pb2 as pb
from serving.core.answer import Answer, AnswerItem, ServedBy
from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.core.trace import Trace
from training.evaluate.report import Row, at_most, report_table, write_report

HOST = "127.0.0.1"
METHOD = "/sieve.v1.RecommendService/Recommend"
BLOCKS = 30
BLOCK = 200
ITEMS = [AnswerItem(f"i{i:07}", 1 - i / 64, ["two_tower"], ["similar_to:i0000012"], i) for i in range(20)]
ANSWER = Answer("0190a5b2c3d44e5f8a6b7c8d9e0f1a2b", None, ITEMS, ServedBy.RANKER, "stable", "recommend/v1")
PREDICTION = Prediction(ANSWER, None, None, Trace())  # type: ignore[arg-type]
REQUEST = pb.RecommendRequest(user_id="u0000001", k=20, context=pb.Context(device="tv", country="DE"))
HOW = f"one client over loopback, median of {BLOCKS} blocks of {BLOCK}, blocks taking turns"

Metadata = tuple[tuple[str, str], ...]


class Instant:
    """Answers without work."""

    async def recommend(self, query: Query, deadline: Deadline, caller: Caller) -> Prediction:
        return PREDICTION

    def readiness(self) -> Readiness:
        return Readiness(True, False)


async def serve(kind: str, tokens: Path) -> None:
    """Prints the port of a server and runs it until it is ended."""
    if kind == "sieve":
        sieve = GrpcServer(Instant(), Tokens(tokens), HOST, 0)
        await sieve.start()
        print(sieve.port, flush=True)
        await asyncio.Event().wait()
    sent = write_answer(ANSWER).SerializeToString()

    async def handler(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return sent

    server = grpc.aio.server()
    handlers = {"Recommend": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_registered_method_handlers("sieve.v1.RecommendService", handlers)
    print(server.add_insecure_port(f"{HOST}:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def served(kind: str, tokens: Path) -> Iterator[grpc.Channel]:
    """A channel to a server in a process of its own."""
    server = subprocess.Popen([sys.executable, "-m", __spec__.name, kind, tokens], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        with grpc.insecure_channel(f"{HOST}:{int(server.stdout.readline())}") as channel:
            yield channel
    finally:
        server.kill()
        server.wait()


def call_ms(channel: grpc.Channel, metadata: Metadata) -> float:
    """Median milliseconds of a block of calls."""
    call = channel.unary_unary(METHOD)
    body = REQUEST.SerializeToString()
    times = []
    for _ in range(BLOCK):
        began = time.perf_counter()
        call(body, metadata=metadata, timeout=10)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def over_loopback() -> list[Row]:
    """The bare server, and what ours adds to it."""
    token = new_token()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        tokens = Path(folder) / "tokens.yaml"
        entry = {"name": "bench", "sha256": digest_of(token), "roles": ["predict"]}
        tokens.write_text(yaml.safe_dump({"tokens": [entry]}))
        metadata = (("authorization", f"Bearer {token}"), ("x-request-id", "0190a5b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b"))
        channels = {kind: stack.enter_context(served(kind, tokens)) for kind in ("bare", "sieve")}
        found: dict[str, list[float]] = {kind: [] for kind in channels}
        for channel in channels.values():
            call_ms(channel, metadata)
        for _ in range(BLOCKS):
            for kind, channel in channels.items():
                found[kind].append(call_ms(channel, metadata))
    bare_ms, sieve_ms = (statistics.median(found[kind]) for kind in channels)
    return [
        Row("bare grpc.aio server", bare_ms, "ms", None, None, HOW),
        Row("sieve.v1 with token, deadline and request id", sieve_ms, "ms", None, None, HOW),
        at_most("  over the bare server", sieve_ms - bare_ms, 0.15, "ms", HOW),
    ]


def translation() -> Row:
    """A request to a query and an answer of 20 items to bytes."""
    body = REQUEST.SerializeToString()

    def both() -> None:
        Query.model_validate(read_fields(decode_request(body)))
        write_answer(ANSWER).SerializeToString()

    how = "request to query and 20 items to bytes, least of 20 blocks of 500"
    return at_most("translation of messages", least_us(both), 60, "us", how)


def least_us(work: Callable[[], None]) -> float:
    """Least microseconds of one run, over blocks."""
    found = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(500):
            work()
        found.append((time.perf_counter() - began) / 500)
    return min(found) * 1e6


def main() -> None:
    """Measures, prints the table and writes the report."""
    rows = [*over_loopback(), translation()]
    Console(width=140).print(report_table("grpc overhead", rows))
    print(f"written to {write_report('grpc_overhead', rows)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
    else:
        main()
