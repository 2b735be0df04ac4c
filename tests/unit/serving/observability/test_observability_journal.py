"""Every request that ended is counted once, with what its prediction holds; stores are counted as they are read."""

import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest

from serving.core.answer import Answer, AnswerItem, ServedBy
from serving.core.candidates import no_candidates
from serving.core.prediction import Prediction
from serving.core.stages import Marked
from serving.core.trace import Kind, Trace
from serving.errors import StoreUnavailable
from serving.features.lists import StoredList
from serving.features.user_state import UserState
from serving.observability.exposition import render
from serving.observability.journal import Journal
from serving.observability.logs import AccessLog
from serving.observability.recorder import Recorder
from serving.observability.settings import AccessLogSettings
from serving.observability.stores import MeteredLists, MeteredUsers


def lines(recorder, name):
    page = render(recorder.registry.samples())
    return [line for line in page.splitlines() if line.startswith(name)]


def predicted(trace, fell_back=False):
    items = [AnswerItem("i1", 0.5, ["popular"], [], 0)]
    answer = Answer("p1", "r1", items, ServedBy.POPULAR, "stable", "recommend/x", degraded=["two_tower"])
    return Prediction(answer, SimpleNamespace(missing=3), no_candidates(), trace, fell_back)


def test_an_answer_is_counted_with_its_stages_and_its_fallback(caplog):
    trace = Trace(marked=[Marked(np.array([3], np.int32), "explored")])
    trace.add("popular", Kind.SOURCE, 0.001, (0, 7))
    recorder = Recorder()
    journal = Journal(recorder, AccessLog(AccessLogSettings.model_validate({"requests": "all"})))
    with caplog.at_level(logging.INFO, "serving.access"):
        journal.note("recommend", "http", "200", 0.002, predicted(trace, fell_back=True), "r1")
    labels = 'app="recommend",transport="http",status="200",served_by="popular",arm="stable"'
    assert lines(recorder, "sieve_requests_total") == [f"sieve_requests_total{{{labels}}} 1.0"]
    assert lines(recorder, "sieve_fallbacks_total") == ['sieve_fallbacks_total{app="recommend",link="popular"} 1.0']
    assert lines(recorder, "sieve_explored_answers_total")
    assert lines(recorder, "sieve_source_candidates_total") == [
        'sieve_source_candidates_total{app="recommend",source="popular"} 7.0'
    ]
    assert 'sieve_missing_feature_values_total{app="recommend",view="user"} 3.0' in lines(
        recorder, "sieve_missing_feature_values_total"
    )
    assert [record.message for record in caplog.records] == ["answered"]


def test_a_refusal_is_counted_without_a_list():
    recorder = Recorder()
    Journal(recorder, AccessLog(AccessLogSettings.model_validate({}))).note("recommend", "grpc", "NOT_FOUND", 0.001)
    (line,) = lines(recorder, "sieve_requests_total")
    assert 'status="NOT_FOUND",served_by="",arm=""' in line


class Users:
    def read(self, user_id):
        if user_id == "down":
            raise StoreUnavailable("connection refused")
        return UserState(user_id)


class Lists:
    def read(self, app, user_id):
        made_us = int((time.time() - 7200) * 1e6)
        return StoredList(user_id, (), np.empty(0, np.float32), "b", made_us) if user_id == "u1" else None


def test_reads_of_users_are_timed_and_their_failures_named():
    recorder = Recorder()
    users = MeteredUsers(Users(), recorder)
    assert users.read("u1").user_id == "u1"
    with pytest.raises(StoreUnavailable):
        users.read("down")
    assert lines(recorder, "sieve_store_read_latency_seconds_count") == [
        'sieve_store_read_latency_seconds_count{store="users"} 2.0'
    ]
    assert lines(recorder, "sieve_store_errors_total") == [
        'sieve_store_errors_total{store="users",error="StoreUnavailable"} 1.0'
    ]


def test_the_age_of_a_list_is_counted_where_there_is_one():
    recorder = Recorder()
    lists = MeteredLists(Lists(), recorder)
    assert lists.read("recommend", "u1") is not None
    assert lists.read("recommend", "u2") is None
    (total,) = lines(recorder, "sieve_precomputed_list_age_seconds_sum")
    assert 7200 <= float(total.split()[-1]) < 7300
    assert lines(recorder, "sieve_precomputed_list_age_seconds_count")[0].endswith(" 1.0")
