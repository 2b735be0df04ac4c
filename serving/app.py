"""The composition root: configuration in, Ray Serve application out. The only `.bind()` is here."""

import logging
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from serving.api.http import create_http
from serving.apps.service import RecommendService
from serving.config import SieveConfig, load_config

MAX_ONGOING_REQUESTS = 200


class Gateway:
    """One replica: the HTTP surface over a recommender in the same process."""

    def __init__(self, document: dict[str, Any]) -> None:
        """document: a `SieveConfig` in JSON."""
        logging.getLogger("serving").setLevel(logging.INFO)
        self._config = SieveConfig.model_validate(document)
        self._service = RecommendService(self._config)
        self._service.start()

    def __serve_build_asgi_app__(self) -> Any:
        """The application that Ray Serve hands requests to."""
        return create_http(self._service, self._config.server.max_body_bytes)


def application(config: SieveConfig) -> Application:
    """The Ray Serve application of a configuration."""
    deployment = serve.deployment(
        name="Gateway",
        num_replicas=config.server.replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        logging_config={"enable_access_log": False},
    )
    bound: Application = deployment(serve.ingress()(Gateway)).bind(config.model_dump(mode="json"))
    return bound


def build(arguments: dict[str, str]) -> Application:
    """What a Serve configuration file imports (`serving.app:build`); `config` is the path of a sieve.yaml.

    Raises:
        ConfigError: with every mistake of the configuration.
    """
    return application(load_config(Path(arguments["config"])))
