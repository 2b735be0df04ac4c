"""`sieve serve`: runs what the configuration says on a local Ray."""

import ipaddress
import json
import logging
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from serving.api.auth import load_tokens
from serving.bundles.store import BundleStore
from serving.config import ServerSettings, SieveConfig, load_config
from serving.errors import ConfigError, SetupError

APP = "recommend"
READY_TIMEOUT_S = 120.0
POLL_S = 0.2
OBJECT_STORE_BYTES = 100_000_000

app = typer.Typer(help="Serve the configured bundle over HTTP and gRPC on a local Ray.")


@app.callback(invoke_without_command=True)
def serve_command(
    context: typer.Context,
    allow_unauthenticated: Annotated[
        bool, typer.Option(help="listen beyond loopback although no tokens are configured")
    ] = False,
) -> None:
    """Serves until Ctrl-C."""
    config = load_config(Path(context.obj))
    _stop_on_signals()
    try:
        with run_server(config, allow_unauthenticated) as url:
            typer.echo(f"serving on {url} (docs: {url}/docs), gRPC on {grpc_address(config.server)}, Ctrl-C stops")
            signal.pause()
    except KeyboardInterrupt:
        typer.echo("stopped")


def _stop_on_signals() -> None:
    """Ctrl-C and SIGTERM end the server, also where a shell started it with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


@contextmanager
def run_server(config: SieveConfig, allow_unauthenticated: bool = False) -> Iterator[str]:
    """A local Ray with the configured server on it, ready to answer; stopped when the block ends.

    Yields:
        The base URL.

    Raises:
        ConfigError: the address must not, or cannot, be listened on.
        BundleError: there is no such bundle.
        SetupError: the bundle cannot serve, or the server did not become ready.
    """
    check_binding(config.server, allow_unauthenticated)
    BundleStore(config.bundles).path(APP, config.recommend.bundle)
    # Ray reads these when it is imported, so nothing may import it before.
    os.environ.update(ray_environment(config.server))
    check_stages(config)
    import ray
    from ray import serve

    try:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, replicas(config)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
        _stop_on_signals()  # once more: Ray has put its own handlers in place
        _start_serve(serve, config)
        url = base_url(config.server)
        _wait_until_ready(url)
        yield url
    finally:
        with _quiet_stderr():
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()


def check_binding(server: ServerSettings, allow_unauthenticated: bool) -> None:
    """Passes addresses that may be listened on and are free, and tokens that can be read.

    Raises:
        ConfigError: an address reaches beyond this machine without tokens or is taken, or the tokens have mistakes;
            every problem of addresses is listed.
    """
    if server.tokens_file is not None:
        load_tokens(server.tokens_file)
    elif not allow_unauthenticated and not is_loopback(server.host):
        problem = f"server.host: {server.host} is reachable from outside and no tokens are configured"
        remedy = "set server.tokens_file, listen on 127.0.0.1, or pass --allow-unauthenticated"
        raise ConfigError("the server must not listen there", [problem, remedy])
    problems = [_taken(server.host, name, getattr(server, name)) for name in ("http_port", "grpc_port")]
    if server.http_port == server.grpc_port:
        problems.append("server.grpc_port: it is the HTTP port")
    if any(problems):
        raise ConfigError("the server cannot listen there", [problem for problem in problems if problem])


def check_stages(config: SieveConfig) -> None:
    """Passes a pipeline whose stages can be found and whose settings are theirs.

    Raises:
        ConfigError: with every problem.
    """
    from serving.apps.build import make_plan

    make_plan(config.recommend)


def replicas(config: SieveConfig) -> int:
    """How many replicas there may be in all, of gateways and of stages that run elsewhere; each takes one CPU."""
    from serving.app import hosted

    server = config.server
    gateways = server.replicas if server.autoscaling is None else server.autoscaling.max_replicas
    return gateways + sum(stage.replicas for stage in hosted(config))


def _taken(host: str, name: str, port: int) -> str | None:
    """What keeps a port from being listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"server.{name}: {host}:{port}: {error.strerror}"
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host, given as an address or as `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ray_environment(server: ServerSettings) -> dict[str, str]:
    """The environment that Ray is started with."""
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.api.ingress:middlewares",
    }
    if server.high_throughput:
        environment |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            # Nothing but this machine's own proxy has to learn that a replica leaves.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            # The default of 5 s ends the proxy of a machine that is busy while it starts.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
            # Fixed by default: two servers on one machine would meet there.
            "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        }
    return environment


def base_url(server: ServerSettings) -> str:
    """Where this machine reaches the server."""
    return f"http://{_reached(server.host)}:{server.http_port}"


def grpc_address(server: ServerSettings) -> str:
    """Where this machine reaches the gRPC server."""
    return f"{_reached(server.host)}:{server.grpc_port}"


def _reached(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)


def _start_serve(serve: Any, config: SieveConfig) -> None:
    from serving.app import application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    options = {"host": config.server.host, "port": config.server.http_port, "location": "HeadOnly"}
    serve.start(http_options=options, logging_config={"log_level": "WARNING"})
    serve.run(application(config), name=APP, route_prefix="/")


def _wait_until_ready(url: str) -> None:
    """Polls /readyz.

    Raises:
        SetupError: loading failed, or took too long.
    """
    limit = time.monotonic() + READY_TIMEOUT_S
    reason = "it does not answer"
    while time.monotonic() < limit:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as error:
            document = _document(error)
            reason = str(document.get("detail", error))
            if document.get("loading") is False:
                raise SetupError("the server cannot serve", [reason]) from None
        except OSError as error:
            reason = str(error)
        time.sleep(POLL_S)
    raise SetupError(f"the server was not ready after {READY_TIMEOUT_S:.0f} s", [reason])


def _document(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        document = json.loads(error.read())
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    # Ray's native code reports there that its own controller, asked to stop, has stopped.
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
