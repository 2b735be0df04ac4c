import pytest

from training.data.signal import signal_report


def test_interactions_are_counted_per_user_and_item_pair_with_the_cold_ones(lake, rows):
    lake.append("users", rows("users", 4, user_id=["a", "b", "c", "cold"]))
    lake.append("items", rows("items", 12, item_id=[f"i{i}" for i in range(12)]))
    pairs = [("a", f"i{i}") for i in range(11)] * 2 + [("b", "i0"), ("c", "i0"), ("c", "i1")]
    users, items = (list(side) for side in zip(*pairs, strict=True))
    lake.append("events", rows("events", len(pairs), user_id=users, item_id=items))
    report = signal_report(lake)
    assert report.interactions == 14
    assert (report.users.count, report.users.median, report.users.below_ten_share) == (4, 2, 0.75)
    assert report.users.cold_share == 0.25
    assert report.items.cold_share == pytest.approx(1 / 12)
    assert not report.enough


def test_clicks_and_completions_that_disagree_over_items_correlate_negatively(lake, rows):
    shown, events = [], []
    for item in range(5):
        shown += [f"i{item}"] * 100
        clicks, completions = 10 * (item + 1), 10
        for user in range(clicks):
            events.append((f"u{user}", f"i{item}", "click", None))
            events.append((f"u{user}", f"i{item}", "completion", 0.9 if user < completions else 0.1))
    lake.append("impressions", rows("impressions", len(shown), item_id=shown))
    users, items, types, values = (list(side) for side in zip(*events, strict=True))
    lake.append("events", rows("events", len(events), user_id=users, item_id=items, type=types, value=values))
    report = signal_report(lake)
    assert report.click_completion_correlation == pytest.approx(-1.0)
    assert report.clicked_not_completed == pytest.approx(100 / 150)


def test_ratings_alone_say_nothing_about_clicks_and_completions(lake, rows):
    lake.append("events", rows("events", 3, user_id=["a", "b", "c"], type="rating", value=4.0))
    report = signal_report(lake)
    assert report.clicked_not_completed is None
    assert report.click_completion_correlation is None


def test_an_empty_lake_has_no_signal(lake):
    report = signal_report(lake)
    assert (report.interactions, report.users.count, report.enough) == (0, 0, False)
