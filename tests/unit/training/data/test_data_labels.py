import pytest

from training.data.labels import labelled_impressions, positives

START_US = 1_767_225_600_000_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 86_400 * SECOND_US
FOREVER_US = START_US + 1000 * DAY_US


def labels(lake, **options):
    with lake.connect() as connection:
        table = labelled_impressions(connection, START_US, FOREVER_US, **options)
    return {row["event_id"]: row for row in table.to_pylist()}


def show(lake, rows, **columns):
    given = {"prediction_id": "p1", "event_id": ["m1"], **columns}
    lake.append("impressions", rows("impressions", len(given["event_id"]), **given))


def act(lake, rows, **columns):
    given = {"prediction_id": "p1", "event_id": ["e1"], **columns}
    lake.append("events", rows("events", len(given["event_id"]), **given))


WINDOWS = {
    "click": ("click", None, 30 * MINUTE_US, 1),
    "a short play": ("play", 479.9, 30 * MINUTE_US, 1),
    "a play of eight minutes": ("play", 480.0, DAY_US, 2),
    "a completion": ("completion", 0.7, 7 * DAY_US, 3),
    "a liked rating": ("rating", 4.0, 14 * DAY_US, 3),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_an_event_at_the_end_of_its_window_counts_and_one_microsecond_later_does_not(lake, rows, name):
    kind, value, window, grade = WINDOWS[name]
    show(lake, rows, event_id=["m1", "m2"], prediction_id=["p1", "p2"])
    times = [START_US + window, START_US + window + 1]
    act(lake, rows, event_id=["e1", "e2"], prediction_id=["p1", "p2"], type=kind, value=value, event_time=times)
    found = labels(lake)
    assert (found["m1"]["grade"], found["m2"]["grade"]) == (grade, 0)


def test_an_event_before_its_impression_does_not_count(lake, rows):
    show(lake, rows, event_time=START_US + 1)
    act(lake, rows, event_time=START_US)
    assert labels(lake)["m1"]["grade"] == 0


def test_the_highest_grade_wins_and_is_known_when_its_event_arrived(lake, rows):
    show(lake, rows)
    act(
        lake, rows, event_id=["e1", "e2", "e3"], type=["click", "completion", "rating"], value=[None, 0.9, 5.0],
        event_time=[START_US + 1, START_US + 2, START_US + 3], ingested_at=[START_US + 1, START_US + 90, START_US + 60],
    )  # fmt: skip
    row = labels(lake)["m1"]
    assert (row["grade"], row["known_us"]) == (3, START_US + 60)


def test_an_event_of_another_item_or_prediction_does_not_count(lake, rows):
    show(lake, rows)
    act(lake, rows, event_id=["e1", "e2"], item_id=["other", "i1"], prediction_id=["p1", "other"])
    assert labels(lake)["m1"]["grade"] == 0


def test_adding_to_the_list_is_no_play(lake, rows):
    show(lake, rows)
    act(lake, rows, type="list_add")
    assert labels(lake)["m1"]["grade"] == 0


def test_an_event_without_prediction_goes_to_the_latest_impression_and_is_flagged(lake, rows):
    show(lake, rows, event_id=["m1", "m2", "m3"], event_time=[START_US, START_US + 10, START_US + 30])
    act(lake, rows, prediction_id=None, event_time=START_US + 20)
    found = labels(lake)
    assert {name: (row["grade"], row["inferred"]) for name, row in found.items()} == {
        "m1": (0, False),
        "m2": (1, True),
        "m3": (0, False),
    }


def test_what_was_not_known_yet_is_not_used(lake, rows):
    show(lake, rows)
    act(lake, rows, event_time=START_US + 1, ingested_at=START_US + 100)
    assert labels(lake, known_before_us=START_US + 100)["m1"]["grade"] == 0
    assert labels(lake, known_before_us=START_US + 101)["m1"]["grade"] == 1


def test_only_impressions_of_the_interval_are_labelled(lake, rows):
    show(lake, rows, event_id=["m1", "m2", "m3"], event_time=[START_US, START_US + DAY_US - 1, START_US + DAY_US])
    with lake.connect() as connection:
        table = labelled_impressions(connection, START_US, START_US + DAY_US)
    assert table["event_id"].to_pylist() == ["m1", "m2"]


def test_impressions_come_in_the_order_of_time_prediction_and_position(lake, rows):
    show(
        lake, rows, event_id=["c", "b", "a", "d"], prediction_id=["p2", "p2", "p1", "p1"], position=[1, 0, 0, 1],
        event_time=[START_US + 5, START_US + 5, START_US + 5, START_US],
    )  # fmt: skip
    assert list(labels(lake)) == ["d", "a", "b", "c"]


def test_a_positive_starts_with_its_first_event_and_ends_with_its_best_grade(lake, rows):
    act(
        lake, rows, event_id=["e1", "e2", "e3"], type=["click", "play", "rating"], value=[None, 900.0, 2.0],
        event_time=[START_US, START_US + 50, START_US + 70], ingested_at=[START_US, START_US + 60, START_US + 70],
    )  # fmt: skip
    with lake.connect() as connection:
        (row,) = positives(connection).to_pylist()
    assert row == {"user_id": "u1", "item_id": "i1", "time_us": START_US, "known_us": START_US + 60, "grade": 2}


def test_a_completion_after_its_window_leaves_the_grade_of_the_click(lake, rows):
    times = [START_US, START_US + 7 * DAY_US + 1]
    act(lake, rows, event_id=["e1", "e2"], type=["click", "completion"], value=[None, 1.0], event_time=times)
    with lake.connect() as connection:
        assert positives(connection)["grade"].to_pylist() == [1]


def test_ratings_of_any_value_are_positives_and_liked_ones_have_the_highest_grade(lake, rows):
    act(lake, rows, event_id=["e1", "e2"], item_id=["a", "b"], type="rating", value=[3.5, 4.0])
    with lake.connect() as connection:
        assert positives(connection)["grade"].to_pylist() == [1, 3]


def test_positives_are_sorted_by_user_time_and_item(lake, rows):
    act(
        lake, rows, event_id=["1", "2", "3", "4"], user_id=["b", "a", "a", "a"], item_id=["x", "z", "y", "w"],
        event_time=[START_US, START_US, START_US, START_US + 1],
    )  # fmt: skip
    with lake.connect() as connection:
        table = positives(connection).to_pydict()
    assert list(zip(table["user_id"], table["item_id"], strict=True)) == [
        ("a", "y"),
        ("a", "z"),
        ("a", "w"),
        ("b", "x"),
    ]


def test_a_lake_without_events_has_no_positives(lake):
    with lake.connect() as connection:
        assert positives(connection).num_rows == 0
