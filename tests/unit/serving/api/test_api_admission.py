"""Who is answered when, and who is turned away."""

import asyncio
import time
from collections import Counter

import pytest
from http_world import Counts, FakeDataplane, client_on_this_loop

from serving.api.admission import Admission
from serving.api.http import create_http
from serving.core.deadline import Deadline
from serving.errors import OverloadError

NEVER_LATE_MS = 600_000.0


async def start(admission: Admission, name: str, order: list[str], deadline_ms: float = NEVER_LATE_MS) -> None:
    deadline = admission.enter("recommend", deadline_ms)
    await admission.turn("recommend", deadline)
    order.append(name)


def test_without_a_queue_a_turn_does_not_suspend():
    async def scenario() -> bool:
        admission = Admission()
        turn = admission.turn("recommend", admission.enter("recommend"))
        with pytest.raises(StopIteration) as done:
            turn.send(None)
        return done.value.value

    assert asyncio.run(scenario()) is False


def test_requests_are_answered_in_order_of_arrival_one_per_pass_of_the_loop():
    order: list[str] = []
    begun: list[int] = []

    async def count_begun() -> None:
        while len(order) < 5:
            begun.append(len(order))
            await asyncio.sleep(0)

    async def scenario() -> None:
        admission = Admission()
        await asyncio.gather(count_begun(), *(start(admission, name, order) for name in "abcde"))

    asyncio.run(scenario())
    assert order == list("abcde")
    assert sorted(set(begun)) == [0, 1, 2, 3, 4]


def test_once_the_loop_has_come_to_rest_a_request_begins_at_once():
    async def scenario() -> bool:
        admission = Admission()
        await admission.turn("recommend", admission.enter("recommend"))
        for _ in range(10):
            await asyncio.sleep(0)
        return await admission.turn("recommend", admission.enter("recommend"))

    assert asyncio.run(scenario()) is False


def test_one_that_gives_up_in_the_queue_leaves_its_turn_to_the_next_and_is_counted():
    order: list[str] = []
    counts = Counts()

    async def scenario() -> None:
        admission = Admission(observer=counts)
        tasks = [asyncio.create_task(start(admission, name, order)) for name in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)

    asyncio.run(scenario())
    assert order == ["a", "c"]
    assert counts.seen["cancelled recommend"] == 1


def test_those_that_gave_up_are_no_reason_to_refuse_others():
    async def scenario() -> None:
        admission = Admission()
        await admission.turn("recommend", admission.enter("recommend"))
        tasks = [asyncio.create_task(start(admission, "gone", [])) for _ in range(6000)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadError):
            admission.enter("recommend", 5000.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        admission.enter("recommend", 5000.0)

    asyncio.run(scenario())


def test_one_whose_deadline_passes_in_the_queue_is_shed():
    async def scenario() -> None:
        admission = Admission(observer=counts)
        admission.enter("recommend")
        late = asyncio.create_task(admission.turn("recommend", Deadline.after_ms(10.0, spent_ms=20.0)))
        await admission.turn("recommend", Deadline.after_ms(NEVER_LATE_MS))
        with pytest.raises(OverloadError):
            await late

    counts = Counts()
    asyncio.run(scenario())
    assert counts.seen["shed recommend deadline"] == 1


def test_what_a_request_waited_while_the_loop_was_held_is_taken_off_its_time():
    async def scenario() -> tuple[float, float]:
        admission = Admission(observer=counts)
        admission.enter("recommend")
        time.sleep(0.08)  # the loop is held, as a long answer holds it
        with pytest.raises(OverloadError):
            admission.enter("recommend", 50.0)
        return admission.lag.spent_ms(), admission.enter("recommend", 10_000.0).remaining_ms()

    counts = Counts()
    spent_ms, remaining_ms = asyncio.run(scenario())
    assert spent_ms >= 69
    assert remaining_ms <= 10_000 - 69
    assert counts.seen["shed recommend queue"] == 1


def test_a_lag_beyond_the_limit_sheds_whatever_the_deadline():
    async def scenario() -> None:
        admission = Admission(max_lag_ms=30)
        admission.enter("recommend")
        time.sleep(0.06)
        with pytest.raises(OverloadError):
            admission.enter("recommend", NEVER_LATE_MS)

    asyncio.run(scenario())


def test_a_loop_that_came_back_is_late_no_more_and_every_lag_is_told():
    async def scenario() -> None:
        admission = Admission(observer=counts)
        admission.enter("recommend")
        time.sleep(0.06)
        while admission.lag.spent_ms() > 30:
            await asyncio.sleep(0.005)

    counts = Counts()
    asyncio.run(scenario())
    assert counts.seen["lag"] >= 1


def test_a_new_loop_starts_with_an_empty_queue():
    admission = Admission()

    async def take_a_turn() -> bool:
        return await admission.turn("recommend", admission.enter("recommend"))

    for _ in range(2):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(asyncio.wait_for(take_a_turn(), 10)) is False
        loop.close()


def test_more_than_can_be_done_in_time_is_refused_with_a_time_to_come_back():
    def work(query: object) -> None:
        end = time.perf_counter() + 0.005
        while time.perf_counter() < end:
            pass

    async def scenario() -> list[tuple[int, str | None]]:
        app = create_http(FakeDataplane(work), admission=Admission(observer=counts))
        async with client_on_this_loop(app) as client:
            headers = {"X-Sieve-Deadline-Ms": "250"}
            sent = [client.post("/v1/recommend", json={}, headers=headers) for _ in range(200)]
            answers = await asyncio.gather(*sent)
        return [(answer.status_code, answer.headers.get("retry-after")) for answer in answers]

    counts = Counts()
    answered = Counter(asyncio.run(scenario()))
    assert set(answered) == {(200, None), (503, "1")}
    shed = counts.seen["shed recommend queue"] + counts.seen["shed recommend deadline"]
    assert shed == answered[503, "1"]
