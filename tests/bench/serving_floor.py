"""The transports' floor: an application and a handler that do nothing, on the Ray that the server runs on."""

from typing import Any

FLOOR_PREFIX = "/floor"
FLOOR = "floor"


def start_http_floor(size: int) -> None:
    """Deploys an ASGI application under `FLOOR_PREFIX` that reads a body and answers `size` bytes of JSON."""
    from ray import serve

    class Floor:
        """Its ASGI application is made in the replica."""

        def __serve_build_asgi_app__(self) -> Any:
            body = b'"' + b"x" * (size - 2) + b'"'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]

            async def asgi(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] == "lifespan":
                    await _live(receive, send)
                    return
                while (await receive()).get("more_body"):
                    pass
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})

            async def _live(receive: Any, send: Any) -> None:
                while True:
                    kind = (await receive())["type"]
                    await send({"type": f"{kind}.complete"})
                    if kind == "lifespan.shutdown":
                        return

            return asgi

    deployment = serve.deployment(
        name="Floor", ray_actor_options={"num_cpus": 0}, logging_config={"enable_access_log": False}
    )
    serve.run(deployment(serve.ingress()(Floor)).bind(), name=FLOOR, route_prefix=FLOOR_PREFIX)


def start_grpc_floor(answer: bytes) -> int:
    """Starts an actor whose gRPC server gives these bytes back to any call; its port."""
    import ray

    class Floor:
        """An event loop with a gRPC server in it."""

        async def start(self) -> int:
            import grpc

            class Anything(grpc.GenericRpcHandler):  # type: ignore[misc]
                def service(self, details: Any) -> Any:
                    async def handle(request: bytes, context: Any) -> bytes:
                        return answer

                    return grpc.unary_unary_rpc_method_handler(handle)

            self.server = grpc.aio.server()
            self.server.add_generic_rpc_handlers([Anything()])
            port = self.server.add_insecure_port("127.0.0.1:0")
            await self.server.start()
            return int(port)

    _kept.append(ray.remote(num_cpus=0)(Floor).remote())
    port: int = ray.get(_kept[-1].start.remote())
    return port


_kept: list[Any] = []
"""An actor ends when nobody holds it."""
