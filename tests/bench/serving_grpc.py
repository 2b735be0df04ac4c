"""One gRPC client in a closed loop, on the wire format alone."""

import time
from dataclasses import dataclass
from itertools import cycle

import numpy as np

METHOD = "/sieve.v1.RecommendService/Recommend"
READY_WITHIN_S = 3.0
WARM_UP = 50


@dataclass(frozen=True)
class GrpcLoad:
    """Median milliseconds, and the last answer's bytes."""

    p50_ms: float
    answer: bytes


def grpc_p50(address: str, users: int, seconds: float) -> GrpcLoad | None:
    """Asks for the users' lists one after another for some seconds; None where nobody answers there."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(READY_WITHIN_S)
        except grpc.FutureTimeoutError:
            return None
        call = channel.unary_unary(METHOD)
        ms, answer = list[float](), b""
        end = time.perf_counter() + seconds
        for place, request in enumerate(cycle(requests_for(users))):
            started = time.perf_counter()
            if started > end and place > WARM_UP:
                return GrpcLoad(float(np.median(ms[WARM_UP:])), answer)
            answer = call(request)
            ms.append((time.perf_counter() - started) * 1000)
    return None


def requests_for(users: int) -> list[bytes]:
    """Serialised requests of the world's users."""
    from serving.api.protos.sieve.v1 import recommend_pb2

    context = recommend_pb2.Context(device="tv", country="DE")
    return [
        recommend_pb2.RecommendRequest(user_id=f"u{i:07}", k=20, context=context).SerializeToString()
        for i in range(users)
    ]
