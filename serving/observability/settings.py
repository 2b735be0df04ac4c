"""What can be set of metrics, logs and traces; every key is closed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricsSettings(_Closed):
    """How metrics leave the process."""

    to_agent: bool = Field(True, description="hand them to the agent on each Ray node, which Prometheus scrapes")
    flush_s: float = Field(2.0, ge=0.1, le=10, description="seconds between two hand-overs")


class AccessLogSettings(_Closed):
    """Which requests are logged; the defaults keep quiet about what went well."""

    requests: Literal["none", "notable", "all"] = Field("notable", description="`notable`: errors and slow ones")
    sample: float = Field(0.0, ge=0, le=1, description="share of the requests that are not notable")
    slow_ms: float = Field(100.0, gt=0, description="a request that took longer is slow")
    lines_per_s: int = Field(50, ge=1, le=100_000, description="lines of one replica at most; the rest is counted")


class LogSettings(_Closed):
    """What is logged, to standard error, and in which form."""

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    access: AccessLogSettings = AccessLogSettings.model_validate({})


class TracingSettings(_Closed):
    """OpenTelemetry traces, as OTLP over HTTP."""

    endpoint: str = Field(pattern=r"^https?://", examples=["http://collector:4318/v1/traces"])
    sample: float = Field(0.01, ge=0, le=1, description="share of requests traced where the caller did not decide")
    service: str = Field("sieve", min_length=1, max_length=64, description="`service.name` of the spans")
