"""Which requests the ranker learns from and is judged on, derived by hand from small logs."""

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
from film_log import FilmLog, at, time_us

from training.config import RankerData
from training.jobs.entities import Entities, read_entities, read_positives
from training.jobs.ranker_rows import (
    Request,
    holdout_requests,
    impression_requests,
    positive_requests,
    sample_requests,
)
from training.models.interactions import Interactions, sort_interactions

Connect = Callable[[FilmLog], duckdb.DuckDBPyConnection]
FROM_US, TO_US = time_us(at(0)), time_us(at(7))


def film_log() -> FilmLog:
    log = FilmLog()
    for user in ("ana", "bo"):
        log.user(user)
    for item in range(6):
        log.item(f"i{item}")
    return log


def show(log: FilmLog, prediction: str | None, user: str, items: list[str], day: float, **columns: Any) -> None:
    """A page: its films a second apart, in order of position."""
    for position, item in enumerate(items):
        log.impression(user, item, at(day, seconds=position), position)
        log.rows["impressions"][-1] |= {"prediction_id": prediction, **columns}


def found_in(connect: Connect, log: FilmLog, known_before_us: int = TO_US) -> list[Request]:
    connection = connect(log)
    entities = read_entities(connection, ("US", "DE"))
    return impression_requests(connection, entities, FROM_US, TO_US, known_before_us)


def test_a_page_is_one_request_with_the_grade_of_each_film_on_it(connect: Connect) -> None:
    log = film_log()
    show(log, "p1", "bo", ["i5", "i3", "i1", "i0"], 1, device="tv", country="DE")
    log.event("bo", "i3", "play", at(1, minutes=1), 60, prediction_id="p1")
    log.event("bo", "i0", "play", at(1, minutes=5), 900, prediction_id="p1")
    log.event("bo", "i5", "completion", at(1, hours=2), 0.8, prediction_id="p1")
    (request,) = found_in(connect, log)
    assert (request.user, request.time_us) == (1, time_us(at(1)))
    assert (request.device, request.country) == ("tv", "DE")
    assert dict(zip(request.rows.tolist(), request.grades.tolist(), strict=True)) == {0: 2, 1: 0, 3: 1, 5: 3}


def test_only_pages_with_something_taken_teach(connect: Connect) -> None:
    log = film_log()
    for number, day in enumerate((1, 2, 3)):
        show(log, f"p{number}", "ana", ["i0", "i1"], day)
    log.event("ana", "i1", "click", at(2, minutes=1), prediction_id="p1")
    log.event("ana", "i1", "list_add", at(3, minutes=1), prediction_id="p2")
    assert [request.time_us for request in found_in(connect, log)] == [time_us(at(2))]


def test_pages_at_the_same_time_are_kept_apart(connect: Connect) -> None:
    log = film_log()
    show(log, "p1", "ana", ["i0", "i1"], 1)
    show(log, "p2", "bo", ["i1", "i2"], 1)
    log.event("ana", "i1", "click", at(1, minutes=1), prediction_id="p1")
    log.event("bo", "i2", "click", at(1, minutes=1), prediction_id="p2")
    found = {r.user: (r.rows.tolist(), r.grades.tolist()) for r in found_in(connect, log)}
    assert found == {0: ([0, 1], [0, 1]), 1: ([1, 2], [0, 1])}


def test_what_is_unknown_or_belongs_to_no_page_is_left_out(connect: Connect) -> None:
    log = film_log()
    show(log, "p1", "ana", ["i0", "gone", "i1"], 1)
    show(log, None, "ana", ["i2"], 2)
    show(log, "p3", "gone", ["i0"], 3)
    for user, item, day, page in (("ana", "i0", 1, "p1"), ("ana", "i2", 2, None), ("gone", "i0", 3, "p3")):
        log.event(user, item, "click", at(day, minutes=1), prediction_id=page)
    (request,) = found_in(connect, log)
    assert request.rows.tolist() == [0, 1]


def test_a_film_shown_twice_on_a_page_is_one_row(connect: Connect) -> None:
    log = film_log()
    show(log, "p1", "ana", ["i2", "i0", "i2"], 1)
    log.event("ana", "i2", "click", at(1, minutes=1), prediction_id="p1")
    (request,) = found_in(connect, log)
    assert (request.rows.tolist(), request.grades.tolist()) == ([0, 2], [0, 1])


def test_a_film_taken_when_it_was_shown_again_is_taken(connect: Connect) -> None:
    log = film_log()
    show(log, "p1", "ana", ["i2", "i0"], 1)
    show(log, "p1", "ana", ["i2"], 1 + 1 / 24)
    log.event("ana", "i2", "click", at(1, hours=1, minutes=5), prediction_id="p1")
    (request,) = found_in(connect, log)
    assert (request.rows.tolist(), request.grades.tolist()) == ([0, 2], [0, 1])


def test_the_window_and_what_was_known_at_its_end_bound_the_pages(connect: Connect) -> None:
    log = film_log()
    for number, day in enumerate((-0.5, 0, 3, 6, 7)):
        show(log, f"p{number}", "ana", ["i0"], day)
        late = {} if number != 3 else {"ingested": at(8)}
        log.event("ana", "i0", "click", at(day, minutes=1), prediction_id=f"p{number}", **late)
    assert [r.time_us for r in found_in(connect, log)] == [time_us(at(0)), time_us(at(3))]


def test_no_impressions_are_no_requests(connect: Connect) -> None:
    assert found_in(connect, film_log()) == []


def interactions() -> Interactions:
    """User 0 takes items 4, 2, 0 at times 10, 20, 30, user 1 item 3 at 15, user 2 item 1 at 5."""
    user, item = np.array([0, 0, 0, 1, 2], np.int32), np.array([4, 2, 0, 3, 1], np.int32)
    times, grade = np.array([10, 20, 30, 15, 5], np.int64), np.array([1, 2, 3, 1, 2], np.int8)
    return sort_interactions(user, item, times, grade, 3, 5)


def test_without_pages_each_positive_is_a_request_for_itself_and_the_later_ones() -> None:
    learned = np.array([False, True, True, True, False])
    found = [
        (r.user, r.time_us, r.rows.tolist(), r.grades.tolist()) for r in positive_requests(interactions(), learned)
    ]
    assert found == [(0, 20, [2, 0], [2, 3]), (0, 30, [0], [3]), (1, 15, [3], [1])]


def test_nothing_learned_is_no_request() -> None:
    assert positive_requests(interactions(), np.zeros(5, np.bool_)) == []


def many(count: int) -> list[Request]:
    """Requests of five rows, the newest first."""
    rows, grades = np.arange(5, dtype=np.int32), np.ones(5, np.int8)
    return [Request(n % 7, 1_000 - n, None, None, rows, grades) for n in range(count)]


def test_a_sample_fills_the_rows_asked_for_and_is_in_order_of_time() -> None:
    settings = RankerData(max_rows=1000, sampled_negatives=15)
    chosen = sample_requests(many(200), settings, seed=1)
    assert len(chosen) == 50
    times = [request.time_us for request in chosen]
    assert times == sorted(times)
    assert len(set(times)) == 50


def test_the_same_seed_takes_the_same_sample_and_another_one_another() -> None:
    settings = RankerData(max_rows=1000, sampled_negatives=15)

    def times(seed: int) -> list[int]:
        return [request.time_us for request in sample_requests(many(200), settings, seed)]

    assert times(1) == times(1)
    assert times(1) != times(2)


def test_few_requests_are_all_taken() -> None:
    assert len(sample_requests(many(10), RankerData(), seed=1)) == 10


def holdout(connect: Connect, log: FilmLog, limit: int = 10, seed: int = 1) -> tuple[list[Request], Entities]:
    connection = connect(log)
    entities = read_entities(connection, ("US", "DE"))
    found = read_positives(connection, entities)
    held_out = found.time_us >= FROM_US
    return holdout_requests(connection, entities, found, held_out, limit, seed), entities


def test_a_user_is_judged_once_at_their_first_held_out_positive_on_all_of_them(connect: Connect) -> None:
    log = film_log()
    log.event("bo", "i0", "play", at(-1), 600, device="tv", country="US")
    log.event("bo", "i1", "play", at(2), 600, device="web", country="DE")
    log.event("bo", "i3", "rating", at(3), 5, device="tv", country="US")
    log.event("ana", "i4", "click", at(1), device="mobile", country="US")
    (first, second), _ = holdout(connect, log)
    assert (first.user, first.time_us, first.device, first.country) == (0, time_us(at(1)), "mobile", "US")
    assert (second.user, second.time_us, second.device, second.country) == (1, time_us(at(2)), "web", "DE")
    assert (second.rows.tolist(), second.grades.tolist()) == ([1, 3], [2, 3])


def test_the_place_is_that_of_the_request_not_of_an_earlier_event(connect: Connect) -> None:
    log = film_log()
    log.event("ana", "i0", "play", at(1), 600, device="tv", country="US")
    log.event("bo", "i5", "list_add", at(1, hours=1), device="mobile", country="DE")
    log.event("bo", "i1", "play", at(2), 600, device="tv", country="US")
    (_, request), _ = holdout(connect, log)
    assert (request.time_us, request.device, request.country) == (time_us(at(2)), "tv", "US")


def test_the_users_who_are_judged_are_a_seeded_sample(connect: Connect) -> None:
    log = FilmLog()
    log.item("i0")
    for number in range(30):
        log.user(f"u{number:02}")
        log.event(f"u{number:02}", "i0", "play", at(number / 10), 600)
    connection = connect(log)
    entities = read_entities(connection, ())
    found = read_positives(connection, entities)

    def users(seed: int) -> list[int]:
        requests = holdout_requests(connection, entities, found, np.ones(30, np.bool_), 10, seed)
        assert [r.time_us for r in requests] == sorted(r.time_us for r in requests)
        return [r.user for r in requests]

    assert len(users(1)) == 10
    assert users(1) == users(1)
    assert users(1) != users(2)


def test_no_holdout_is_no_request(connect: Connect) -> None:
    connection = connect(film_log())
    entities = read_entities(connection, ())
    assert holdout_requests(connection, entities, interactions(), np.zeros(5, np.bool_), 10, 1) == []
