import json
import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from rule_world import candidates, outcome, parts, request
from serving_world import NOW_US

from serving.errors import ConfigError
from serving.rules.editorial import EditorialRule, EditorialSource
from serving.rules.editorial_file import EditorialFile, read_entries

NOW = datetime.fromtimestamp(NOW_US / 1e6, UTC)
DAY = timedelta(days=1)
ALL = candidates(range(12))


def entry(item, action="pin", start=NOW - DAY, end=NOW + DAY, **more):
    if action != "pin":
        more.setdefault("strength", 1.0)
    times = {"from": start.isoformat(), "until": end.isoformat()}
    return {"item": item, "action": action, **times, "reason": "because", **more}


def pin(item, position, **more):
    return entry(item, position=position, **more)


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "editorial.json"

    def write(*entries):
        path.write_text(json.dumps(entries))
        return path

    return write


def rule(path, world=None, cls=EditorialRule):
    return cls(world or parts(), cls.Settings(file=path))


def problems(path):
    with pytest.raises(ConfigError) as caught:
        read_entries(path)
    return list(caught.value.problems)


def test_pins_stand_where_they_should_and_all_others_keep_their_order(write):
    pins = rule(write(pin("i09", 0), pin("i02", 5)))
    assert outcome(pins, request(), ALL) == ([9, 0, 1, 3, 4, 2, 5, 6, 7, 8, 10, 11], {}, {"pinned": [9, 2]})


def test_a_pin_beyond_the_end_takes_the_last_place(write):
    pins = rule(write(pin("i00", 50), pin("i01", 60), pin("i02", 0)))
    assert outcome(pins, request(), candidates([0, 1, 2, 3]))[0] == [2, 3, 0, 1]


def test_positions_are_those_of_the_whole_list_on_a_later_page(write):
    pins = rule(write(pin("i09", 2), pin("i03", 6)))
    second = request(offset=5)
    assert outcome(pins, second, candidates([0, 1, 2, 3, 9])) == ([0, 3, 1, 2, 9], {}, {"pinned": [3]})


def test_an_editor_cannot_show_what_is_not_among_the_candidates(write):
    assert outcome(rule(write(pin("i09", 0))), request(), candidates([0, 1]))[0] == [0, 1]


def test_the_source_finds_the_pins_of_the_moment_and_place(write):
    path = write(
        pin("i03", 2), pin("i07", 0), pin("i05", 1, countries=["DE"]), pin("nobody", 3), entry("i01", "boost"),
        pin("i11", 4, start=NOW + DAY, end=NOW + 2 * DAY),
    )  # fmt: skip
    source = rule(path, cls=EditorialSource)
    assert source.find(request()).row.tolist() == [7, 3]
    found = source.find(request(country="DE"))
    assert dict(zip(found.row.tolist(), found.score.tolist(), strict=True)) == {
        7: 1.0, 5: 0.5, 3: pytest.approx(1 / 3)
    }  # fmt: skip
    assert source.find(request(now_us=NOW_US + int(1.5 * 86_400e6))).row.tolist() == [11]


def test_an_entry_holds_from_its_first_moment_until_before_its_last(write):
    pins = rule(write(pin("i09", 0, start=NOW, end=NOW + DAY)))
    for now_us, is_first in ((NOW_US - 1, False), (NOW_US, True), (NOW_US + 86_400_000_000, False)):
        assert (outcome(pins, request(now_us=now_us), ALL)[0][0] == 9) is is_first


def test_a_boost_lifts_and_a_bury_lowers_by_deviations(write):
    scores = [4.0, 3.0, 2.0, 1.0]
    nudged = rule(write(entry("i03", "boost", strength=2.0), entry("i00", "bury", strength=0.5)))
    ruled = nudged.apply(request(), candidates([0, 1, 2, 3], scores))
    deviation = np.std(scores)
    by_row = dict(zip(ruled.kept.row.tolist(), ruled.kept.score.tolist(), strict=True))
    assert by_row == pytest.approx({3: 1 + 2 * deviation, 0: 4 - 0.5 * deviation, 1: 3.0, 2: 2.0})
    assert ruled.kept.row.tolist() == [0, 3, 1, 2]
    assert {m.reason: m.rows.tolist() for m in ruled.marked} == {"boosted": [3], "buried": [0]}


def test_every_problem_of_a_file_is_reported_at_once(write):
    path = write(
        {**pin("i01", 0), "segment": "kids"},
        pin("i02", -1),
        entry("i03", "boost", strength=0),
        entry("i04", "bury", position=3),
        entry("i05", "hide"),
        {**pin("i06", 1), "from": "2026-05-01T00:00:00"},
        pin("i07", 2, countries=["Germany"]),
        pin("i08", 3, start=NOW, end=NOW),
    )
    told = problems(path)
    assert [problem.split(":")[0] for problem in told] == [
        "0.segment", "1.position", "2.strength", "3", "4.action", "5.from", "6.countries.0", "7",
    ]  # fmt: skip
    assert "a bury has no position" in told[3]
    assert "until is not after from" in told[7]


def test_two_pins_for_one_place_or_of_one_item_conflict_only_where_and_when_both_hold(write):
    told = "1.{0}: entry 0 has the same {0} at the same time"
    assert problems(write(pin("i01", 0), pin("i02", 0))) == [told.format("position")]
    assert problems(write(pin("i01", 0), pin("i01", 4))) == [told.format("item")]
    read_entries(write(pin("i01", 0, countries=["DE"]), pin("i02", 0, countries=["US"])))
    read_entries(write(pin("i01", 0), pin("i02", 0, start=NOW + DAY, end=NOW + 2 * DAY)))
    read_entries(write(pin("i01", 0), entry("i01", "boost")))


@pytest.mark.parametrize("text", ["{", "a: [", "\x00", "just words", "{item: i01}", "[1, 2]", "&a [*a]"])
def test_a_file_that_is_no_list_of_entries_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert problems(path)


def test_a_missing_file_is_a_mistake_of_the_configuration_and_an_empty_one_is_not(tmp_path):
    path = tmp_path / "editorial.yaml"
    with pytest.raises(ConfigError, match=r"editorial\.yaml"):
        rule(path)
    path.write_text("")
    assert outcome(rule(path), request(), ALL)[0] == list(range(12))


def test_yaml_with_times_as_people_write_them_is_read(tmp_path):
    path = tmp_path / "editorial.yaml"
    path.write_text(
        "- {item: i04, action: pin, position: 1, from: 2026-01-01T00:00:00Z, until: 2026-12-31 23:59:59+02:00,\n"
        "   countries: [DE, FR], reason: festival}\n"
    )
    found = rule(path, cls=EditorialSource).find(request(country="FR"))
    assert found.row.tolist() == [4]


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def test_a_changed_file_is_in_force_at_the_next_look_and_looked_for_once_a_second(write):
    clock = Clock()
    watched = EditorialFile(write(pin("i01", 0)), clock)
    write(pin("i02", 0), pin("i03", 1))
    clock.now_s = 0.9
    watched.current()
    watched.wait()
    assert watched.current().items == ["i01"]
    clock.now_s = 1.0
    watched.current()
    watched.wait()
    assert watched.current().items == ["i02", "i03"]


def test_a_bad_new_file_leaves_the_old_in_force_and_is_warned_of_once(write, caplog):
    clock = Clock()
    path = write(pin("i01", 0))
    watched = EditorialFile(path, clock)
    for content in ("nonsense", None):
        if content is None:
            os.remove(path)
        else:
            path.write_text(content)
        caplog.clear()
        for _ in range(3):
            clock.now_s += 1
            assert watched.current().items == ["i01"]
            watched.wait()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
    write(pin("i05", 0))
    clock.now_s += 1
    watched.current()
    watched.wait()
    assert watched.current().items == ["i05"]


def test_pins_follow_a_new_item_table(write):
    tables = [parts().table()]
    world = parts()
    world.table = lambda: tables[-1]
    pins = rule(write(pin("newer", 0)), world)
    longer = candidates([*range(12), 12])
    assert outcome(pins, request(), longer)[0][0] == 0
    tables.append(SimpleNamespace(rows_of=lambda ids: np.full(len(ids), 12, np.int32)))
    assert outcome(pins, request(), longer)[0][0] == 12
