"""What reaches an agent: growth, once; and what is shown where there is no agent."""

import asyncio
import threading
from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from serving.errors import DependencyError
from serving.observability import metrics
from serving.observability.publisher import Publisher
from serving.observability.recorder import Outcome, Recorder
from serving.observability.series import Series


class Agent:
    """Adds up what it is sent as Ray's agent does, and can be down."""

    def __init__(self) -> None:
        self.total: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.sizes: list[int] = []
        self.is_down = False

    def send(self, values: Sequence[tuple[Series, float]]) -> None:
        if self.is_down:
            raise DependencyError("the agent is down")
        self.sizes.append(len(values))
        for series, value in values:
            key = series.name, series.labels
            is_gauge = series.metric.kind is metrics.Kind.GAUGE
            self.total[key] = value if is_gauge else self.total.get(key, 0) + value

    def page(self) -> str:
        if self.is_down:
            raise DependencyError("the agent is down")
        return 'ray_sieve_cancelled_requests_total{app="recommend",otel_scope_name="x"} 41.0\n'

    def of(self, name: str) -> list[float]:
        return [value for (found, _), value in self.total.items() if found == name]


def answer(recorder: Recorder) -> None:
    recorder.observe("recommend", "http", Outcome("200", 0.0012, "ranker", "stable", 20))


def page_of(publisher: Publisher) -> dict[str, list[float]]:
    content_type, body = asyncio.run(publisher.page())
    assert content_type.startswith("text/plain; version=0.0.4")
    return {f.name: [s.value for s in f.samples] for f in text_string_to_metric_families(body.decode())}


def test_each_count_reaches_the_agent_once_however_often_it_is_flushed():
    recorder, agent = Recorder(), Agent()
    publisher = Publisher(recorder.registry, agent, flush_s=60)
    for _ in range(3):
        answer(recorder)
        assert publisher.flush()
    publisher.flush()
    assert agent.of("sieve_requests_total") == [3]
    assert agent.of("sieve_request_latency_seconds_count") == [3]


def test_a_new_histogram_arrives_with_all_its_buckets_and_then_with_what_changed_only():
    recorder, agent = Recorder(), Agent()
    publisher = Publisher(recorder.registry, agent, flush_s=60)
    answer(recorder)
    publisher.flush()
    buckets = agent.of("sieve_request_latency_seconds_bucket")
    assert buckets == [0] * 3 + [1] * 14
    publisher.flush()
    assert agent.sizes[-1] == 0


def test_two_processes_add_up_at_the_agent():
    agent = Agent()
    for _ in range(2):
        recorder = Recorder()
        answer(recorder)
        Publisher(recorder.registry, agent, flush_s=60).flush()
    assert agent.of("sieve_requests_total") == [2]


def test_what_an_agent_did_not_take_is_sent_with_the_next_flush(caplog):
    recorder, agent = Recorder(), Agent()
    publisher = Publisher(recorder.registry, agent, flush_s=60)
    agent.is_down = True
    for _ in range(3):
        answer(recorder)
        assert not publisher.flush()
    agent.is_down = False
    assert publisher.flush()
    assert agent.of("sieve_requests_total") == [3]
    assert [record.message for record in caplog.records] == ["metrics wait for the node's agent: the agent is down"]


def test_gauges_are_sent_with_every_flush_because_an_agent_forgets_silent_ones():
    recorder, agent = Recorder(), Agent()
    publisher = Publisher(recorder.registry, agent, flush_s=60)
    recorder.set(metrics.QUALITY, "recommend", value=0.5)
    publisher.flush()
    agent.total.clear()
    publisher.flush()
    assert agent.of("sieve_quality_factor") == [0.5]


def test_the_page_is_the_agents_for_the_whole_node():
    recorder, agent = Recorder(), Agent()
    answer(recorder)
    assert page_of(Publisher(recorder.registry, agent, flush_s=60)) == {"sieve_cancelled_requests": [41.0]}
    assert agent.of("sieve_requests_total") == [1]  # what was recorded just now is on it


def test_without_an_agent_or_while_it_is_down_the_page_is_this_processs_own():
    recorder, agent = Recorder(), Agent()
    answer(recorder)
    assert page_of(Publisher(recorder.registry, None, flush_s=60))["sieve_requests"] == [1]
    agent.is_down = True
    assert page_of(Publisher(recorder.registry, agent, flush_s=60))["sieve_requests"] == [1]


def test_stopping_sends_what_is_left():
    recorder, agent = Recorder(), Agent()
    publisher = Publisher(recorder.registry, agent, flush_s=60)
    publisher.start()
    answer(recorder)
    publisher.stop()
    assert agent.of("sieve_requests_total") == [1]


def test_the_thread_flushes_by_itself():
    recorder, agent = Recorder(), Agent()
    flushed = agent_flushes(agent)
    publisher = Publisher(recorder.registry, agent, flush_s=0.01)
    answer(recorder)
    publisher.start()
    assert flushed.wait(10)
    assert agent.of("sieve_requests_total") == [1]
    publisher.stop()


def agent_flushes(agent: Agent) -> threading.Event:
    flushed, send = threading.Event(), agent.send

    def sent(values: Sequence[tuple[Series, float]]) -> None:
        send(values)
        flushed.set()

    agent.send = sent  # type: ignore[method-assign]
    return flushed
