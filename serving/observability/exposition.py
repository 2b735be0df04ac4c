"""Prometheus' text format: rendering this process's series, and reading them back out of a Ray agent's page.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import re
from collections.abc import Iterable

from serving.observability.metrics import ALL, Kind, Metric
from serving.observability.series import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RAY_PREFIX = "ray_"
_LINE = re.compile(r"ray_(sieve_\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"\\]*(?:\\.[^"\\]*)*)"')
# What Ray says of its own library on every line of every process.
_NOISE = frozenset({"otel_scope_name", "otel_scope_schema_url", "otel_scope_version"})
_SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
_FAMILIES = {metric.name + suffix: metric for metric in ALL for suffix in _SUFFIXES.get(metric.kind, ("",))}


def render(samples: Iterable[tuple[Series, float]]) -> str:
    """The page of a registry's samples; metrics without a series are left out."""
    families: dict[Metric, list[str]] = {}
    for series, value in samples:
        labels = ",".join(f'{name}="{_escape(text)}"' for name, text in series.labels)
        families.setdefault(series.metric, []).append(_line(series.name, labels, _number(value)))
    return _page(families)


def restore(page: str) -> str:
    """A Ray agent's page with Sieve's metrics under their own names and types; all else stays as it is.

    Ray puts its prefix on every name and knows no histogram that is handed over ready-made, so on its page their
    parts are gauges of their own. What is not one of this version's metrics is passed on untouched.
    """
    others: list[str] = []
    rows: dict[Metric, list[tuple[tuple[str, str, float], str]]] = {}
    for line in page.splitlines():
        if not line.startswith((f"{RAY_PREFIX}sieve_", f"# HELP {RAY_PREFIX}sieve_", f"# TYPE {RAY_PREFIX}sieve_")):
            others.append(line)
            continue
        found = _LINE.fullmatch(line)
        metric = _FAMILIES.get(found[1] if found else line.split(" ", 3)[2].removeprefix(RAY_PREFIX))
        if metric is None:
            others.append(line)
        elif found is not None:
            rows.setdefault(metric, []).append(_restored(*found.groups()))
    families = {metric: [line for _, line in sorted(found)] for metric, found in rows.items()}
    return "\n".join([*others, _page(families)])


def _restored(name: str, labels: str | None, value: str) -> tuple[tuple[str, str, float], str]:
    """The line as it should be, with what sorts it: a histogram's buckets belong together, in order."""
    kept, bound = [], -1.0
    for label, text in _LABEL.findall(labels or ""):
        if label == "le":
            bound = float(text)
        elif label not in _NOISE:
            kept.append(f'{label}="{text}"')
    where = ",".join(kept)
    if bound >= 0:
        kept.append(f'le="{_number(bound)}"')
    return (name, where, bound), _line(name, ",".join(kept), value)


def _page(families: dict[Metric, list[str]]) -> str:
    lines: list[str] = []
    for metric in ALL:
        if metric in families:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind.value}"]
            lines += families[metric]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, labels: str, value: str) -> str:
    return f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(value))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
