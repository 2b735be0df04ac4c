import numpy as np
import pytest
from deltalake import write_deltalake

from serving.errors import DataError
from training.data.alarms import FILE, Alarm, acknowledge, add_alarms, alarms, raise_if_alarmed
from training.data.check import check_lake

DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000


def daily(rows, counts, table="events", **columns):
    """Rows of consecutive days; a column may be a function of (day, place in the day)."""
    places = [(day, place) for day, count in enumerate(counts) for place in range(count)]
    varied = {k: [v(d, p) for d, p in places] if callable(v) else v for k, v in columns.items()}
    varied["event_time"] = [START_US + day * DAY_US + place for day, place in places]
    return rows(table, len(places), **varied)


def found(lake):
    return {(a.table, a.column, a.kind): (a.since, a.until) for a in check_lake(lake).alarms}


def test_an_ordinary_lake_raises_no_alarm(lake, rows):
    lake.append("events", daily(rows, [200 + 15 * (day % 7) for day in range(60)]))
    assert found(lake) == {}
    raise_if_alarmed(lake)


def test_a_null_flood_in_an_optional_column_is_found_with_its_first_and_last_day(lake, rows):
    device = lambda day, place: None if 20 <= day < 23 and place % 2 else "tv"  # noqa: E731
    lake.append("events", daily(rows, [200] * 30, device=device))
    assert found(lake) == {("events", "device", "nulls"): ("2026-01-21", "2026-01-23")}


def test_a_column_that_was_always_empty_is_no_flood(lake, rows):
    lake.append("events", daily(rows, [200] * 30, country=None))
    assert found(lake) == {}


def test_a_half_null_column_of_items_that_arrived_a_few_a_day_is_found(lake, rows):
    n = 300
    times = [START_US + i // 3 * DAY_US for i in range(n)]
    maturity = [None if i >= 150 and i % 2 else 0 for i in range(n)]
    lake.append("items", rows("items", n, item_id=[f"i{i}" for i in range(n)], maturity=maturity, available_at=times))
    ((key, (since, _)),) = found(lake).items()
    assert key == ("items", "maturity", "nulls")
    assert "2026-02-10" <= since <= "2026-02-21"


def test_unknown_values_of_a_closed_set_are_found_with_their_first_day(lake, rows):
    kind = lambda day, place: "watch" if day >= 12 and place % 3 == 0 else "click"  # noqa: E731
    lake.append("events", daily(rows, [200] * 20, type=kind))
    assert found(lake)[("events", "type", "values")] == ("2026-01-13", "2026-01-20")


def test_known_values_that_trade_places_are_found(lake, rows):
    device = lambda day, place: "web" if day >= 12 or place % 4 == 0 else "tv"  # noqa: E731
    lake.append("events", daily(rows, [200] * 20, device=device))
    assert found(lake)[("events", "device", "values")][0] == "2026-01-13"


@pytest.mark.parametrize("volume", [0, 20, 2000])
def test_a_day_of_unusual_volume_is_found(lake, rows, volume):
    counts = [200 + 10 * (day % 7) for day in range(60)]
    counts[45] = volume
    lake.append("events", daily(rows, counts))
    assert found(lake) == {("events", "*", "volume"): ("2026-02-15", "2026-02-15")}


def test_quiet_weekends_are_not_unusual(lake, rows):
    lake.append("events", daily(rows, [50 if day % 7 in (2, 3) else 400 for day in range(60)]))
    assert found(lake) == {}


def test_bursty_data_without_a_rhythm_raises_no_volume_alarm(lake, rows):
    bursts = np.random.default_rng(0).lognormal(4, 1.5, 90).astype(int) % 2000
    lake.append("events", daily(rows, bursts.tolist()))
    assert found(lake) == {}


def test_a_last_day_that_is_still_filling_is_not_unusual(lake, rows):
    lake.append("events", daily(rows, [200] * 59 + [5]))
    assert found(lake) == {}


def test_impossible_values_that_were_appended_unchecked_are_found(lake, rows):
    value = lambda day, place: 70.0 if day >= 5 else 0.7  # noqa: E731
    lake.append("events", daily(rows, [200] * 10, type="completion", value=value))
    assert found(lake) == {("events", "value", "values"): ("2026-01-06", "2026-01-10")}


def test_events_from_before_their_user_existed_are_found(lake, rows):
    lake.append("users", rows("users", created_at=START_US + 3 * DAY_US))
    lake.append("events", daily(rows, [200] * 10))
    assert found(lake) == {("events", "event_time", "values"): ("2026-01-01", "2026-01-03")}


def test_repeated_keys_are_found(lake, rows):
    lake.append("events", daily(rows, [200] * 10, event_id=lambda day, place: f"{day}-{min(place, 190)}"))
    assert ("events", "event_id", "duplicates") in found(lake)


def test_a_schema_change_from_outside_is_an_alarm_that_names_the_column(lake, rows):
    import pyarrow as pa

    lake.append("users", rows("users"))
    lake.append("events", rows("events"))
    alien = rows("users").append_column("age", pa.array([7]))
    write_deltalake(str(lake.root / "users"), alien, mode="append", schema_mode="merge")
    check = check_lake(lake)
    assert [(a.name, a.kind) for a in check.alarms] == [("users.age", "schema")]
    assert list(check.tables) == ["events"]


def test_a_fixed_lake_clears_its_alarms(lake, rows):
    add_alarms(lake, [Alarm("events", "device", "nulls", "2026-01-01", "2026-01-02", "half of it")])
    lake.append("events", daily(rows, [200] * 10))
    assert check_lake(lake).alarms == []
    raise_if_alarmed(lake)


def test_every_standing_alarm_is_listed_when_training_is_stopped(lake):
    add_alarms(lake, [Alarm("events", c, "nulls", "2026-01-01", "2026-01-02", "half of it") for c in ("value", "type")])
    with pytest.raises(DataError) as caught:
        raise_if_alarmed(lake)
    assert [problem.split()[0] for problem in caught.value.problems] == ["events.type", "events.value"]


def test_an_alarm_that_comes_again_keeps_its_first_day(lake):
    add_alarms(lake, [Alarm("events", "type", "nulls", "2026-01-03", "2026-01-03", "")])
    add_alarms(lake, [Alarm("events", "type", "nulls", "2026-01-05", "2026-01-06", "")])
    (alarm,) = alarms(lake)
    assert (alarm.since, alarm.until) == ("2026-01-03", "2026-01-06")


def test_an_acknowledged_alarm_stands_again_when_the_break_goes_on(lake):
    add_alarms(lake, [Alarm("events", "type", "nulls", "2026-01-03", "2026-01-04", "")])
    acknowledge(lake, "events.type")
    raise_if_alarmed(lake)
    add_alarms(lake, [Alarm("events", "type", "nulls", "2026-01-05", "2026-01-05", "")])
    assert [a.name for a in alarms(lake)] == ["events.type"]


def test_an_alarm_that_does_not_stand_cannot_be_acknowledged(lake):
    with pytest.raises(DataError, match=r"no alarm named events\.typ "):
        acknowledge(lake, "events.typ")


def test_a_damaged_alarm_file_is_named(lake):
    lake.root.mkdir()
    (lake.root / FILE).write_text('{"alarms": [', encoding="utf-8")
    with pytest.raises(DataError, match=r"alarms\.json is damaged"):
        alarms(lake)
