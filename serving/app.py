"""The composition root: configuration in, Ray Serve application out. The only `.bind()` calls are here."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from serving.api.admission import Admission
from serving.api.auth import Tokens
from serving.api.grpc_server import GrpcServer, serve_beside
from serving.api.http import create_http
from serving.apps.deployment import StageHost, await_hosts
from serving.apps.recommend import APP, ARM
from serving.apps.remote import RemoteStages
from serving.apps.service import RecommendService
from serving.config import FallibleChoice, Placement, SieveConfig, load_config
from serving.observability import metrics
from serving.observability.journal import Journal
from serving.observability.logs import AccessLog, configure_logs
from serving.observability.ray_export import open_publisher
from serving.observability.recorder import Recorder
from serving.observability.tracing import Tracer

MAX_ONGOING_REQUESTS = 200
SHUTDOWN_MARGIN_S = 5.0
SWITCH_INTERVAL_S = 0.0005
log = logging.getLogger(__name__)


class Gateway:
    """One replica: HTTP and gRPC over one data plane, and the inline stages in the same process."""

    def __init__(self, document: dict[str, Any], hosts: dict[str, Any]) -> None:
        """document: a `SieveConfig` in JSON.  hosts: handles of the stages that run elsewhere, by their labels."""
        self._config = config = SieveConfig.model_validate(document)
        configure_logs(config.logging)
        # A thread that loads a bundle may keep the interpreter this long each time an answer gives it up.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._recorder = recorder = Recorder()
        self._hosts = hosts
        self._loop: asyncio.AbstractEventLoop | None = None
        prepare = self._prepare if hosts else None
        self._service = RecommendService(config, prepare, partial(_note_bundle, recorder), recorder)
        _watch(recorder, self._service)
        self._publisher = open_publisher(recorder, config.metrics)
        self._publisher.start()
        self._tracer = None if config.tracing is None else Tracer(config.tracing, recorder.dropped)
        if self._tracer is not None:
            self._tracer.start()

    def __serve_build_asgi_app__(self) -> Any:
        """The application that Ray Serve hands requests to; the gRPC server lives as long as it does."""
        server = self._config.server
        tokens = Tokens(server.tokens_file)
        admission = Admission(self._config.recommend.deadline_ms, server.max_lag_ms, self._recorder)
        self._recorder.watch(metrics.IN_FLIGHT, APP, read=lambda: float(admission.waiting))
        journal = Journal(self._recorder, AccessLog(self._config.logging.access), self._tracer)
        app = create_http(
            self._service,
            tokens=tokens,
            admission=admission,
            journal=journal,
            max_body_bytes=server.max_body_bytes,
            max_batch=server.max_batch,
            echoes_request_id=False,
            metrics=self._publisher.page,
        )
        grpc = GrpcServer(
            self._service,
            tokens,
            server.host,
            server.grpc_port,
            admission=admission,
            journal=journal,
            max_message_bytes=server.max_body_bytes,
            max_batch=server.max_batch,
            max_concurrent_rpcs=server.max_concurrent_rpcs,
        )
        serve_beside(app, grpc, server.drain_s)
        live_with(app, self._open, self._close)
        return app

    def _open(self) -> None:
        """Begins to load, on the loop that handles of other deployments belong to."""
        self._loop = asyncio.get_running_loop()
        self._service.start()

    def _close(self) -> None:
        """Ends what runs in threads; what was counted is handed over."""
        self._service.stop()
        self._publisher.stop()
        if self._tracer is not None:
            self._tracer.stop()

    def _prepare(self, version: str) -> RemoteStages:
        """The stages of a version that run elsewhere, for the loading thread, which waits for the loop."""
        assert self._loop is not None
        replicas = {choice.label: choice.replicas for choice in hosted(self._config)}
        return asyncio.run_coroutine_threadsafe(await_hosts(self._hosts, replicas, version), self._loop).result()


def live_with(app: Starlette, opened: Callable[[], None], closed: Callable[[], None]) -> None:
    """Has `opened` called when an ASGI application starts, and `closed`, in a thread, when it has shut down."""
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def both(running: Starlette) -> AsyncIterator[Any]:
        opened()
        try:
            async with lifespan(running) as state:
                yield state
        finally:
            await asyncio.to_thread(closed)

    app.router.lifespan_context = both


def application(config: SieveConfig) -> Application:
    """The Ray Serve application of a configuration: gateways, and a deployment for each stage placed in one."""
    document = config.model_dump(mode="json")
    hosts = {choice.label: _host(choice).bind(document, choice.label) for choice in hosted(config)}
    server = config.server
    scaling: dict[str, Any] = {"num_replicas": server.replicas}
    if server.autoscaling is not None:
        scaling = {
            "autoscaling_config": {
                "min_replicas": server.autoscaling.min_replicas,
                "max_replicas": server.autoscaling.max_replicas,
                "target_ongoing_requests": server.autoscaling.ongoing_requests,
            }
        }
    deployment = serve.deployment(
        name="Gateway",
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=server.drain_s + SHUTDOWN_MARGIN_S,
        logging_config={"enable_access_log": False},
        **scaling,
    )
    bound: Application = deployment(serve.ingress()(Gateway)).bind(document, hosts)
    return bound


def build(arguments: dict[str, str]) -> Application:
    """What a Serve configuration file imports (`serving.app:build`); `config` is the path of a sieve.yaml.

    Raises:
        ConfigError: with every mistake of the configuration.
    """
    return application(load_config(Path(arguments["config"])))


def hosted(config: SieveConfig) -> list[FallibleChoice]:
    """The stages that run as deployments of their own."""
    ranker = config.recommend.ranker
    stages: list[FallibleChoice] = [*config.recommend.sources, *([] if ranker is None else [ranker])]
    return [stage for stage in stages if stage.placement is Placement.DEPLOYMENT]


def _host(choice: FallibleChoice) -> Any:
    return serve.deployment(
        name=f"stage-{choice.label}",
        num_replicas=choice.replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        logging_config={"enable_access_log": False},
    )(StageHost)


def _watch(recorder: Recorder, service: RecommendService) -> None:
    """Gauges of what is in force, read whenever metrics are exported."""
    recorder.watch(metrics.QUALITY, APP, read=service.quality)
    recorder.watch(metrics.BUNDLE_AGE, APP, ARM, read=service.bundle_age_s)
    recorder.watch(metrics.WATERMARK_AGE, APP, "item", read=service.feature_age_s)


def _note_bundle(recorder: Recorder, bundle: str, before: str | None) -> None:
    recorder.set(metrics.BUNDLE, APP, ARM, bundle, value=1)
    if before is not None:
        recorder.forget(metrics.BUNDLE, APP, ARM, before)
