import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.errors import ConfigError, DataError
from training.data.mapping import Mapping, load_mapping
from training.data.sources import import_files

RATINGS = Mapping.model_validate(
    {
        "table": "events",
        "columns": {"user_id": "who", "item_id": "what", "value": "stars", "event_time": "when"},
        "templates": {"event_id": "shop-{who}-{what}"},
        "constants": {"type": "rating"},
    }
)
HEADER = "who,what,stars,when\n"


def mapped(**changes):
    return Mapping.model_validate({**RATINGS.model_dump(), **changes})


def stored(lake, query):
    with lake.connect() as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def csv(tmp_path):
    def write(text, name="ratings.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_a_csv_becomes_events_with_built_ids_and_the_rows_own_time_as_ingestion(lake, csv):
    report = import_files(lake, RATINGS, [csv(HEADER + "ann,7,4.5,2026-01-02T03:04:05.678901Z\n")])
    assert report.accepted == 1
    query = "SELECT event_id, user_id, item_id, type, value, epoch_us(event_time), event_time = ingested_at FROM events"
    assert stored(lake, query) == [("shop-ann-7", "ann", "7", "rating", 4.5, 1_767_323_045_678_901, True)]


def test_a_second_import_of_the_same_file_adds_nothing(lake, csv):
    file = csv(HEADER + "ann,7,4.5,2026-01-02\nbob,7,3,2026-01-03\n")
    import_files(lake, RATINGS, [file])
    report = import_files(lake, RATINGS, [file])
    assert (report.accepted, report.duplicates) == (0, 2)
    assert stored(lake, "SELECT count(*) FROM events") == [(2,)]


def test_the_same_key_with_another_value_is_quarantined_with_its_count(lake, csv):
    file = csv(HEADER + "ann,7,4,2026-01-02\nann,7,1,2026-01-02\nbob,7,3,2026-01-02\n")
    report = import_files(lake, RATINGS, [file])
    assert (report.accepted, report.reasons) == (2, {"event_id: already taken by another row": 1})


def test_bad_dates_are_quarantined_with_a_count_and_the_row_of_the_file(lake, csv):
    file = csv(HEADER + "ann,7,4,2026-01-02\nbob,7,3,yesterday\ncid,7,3,2026-02-30\n")
    report = import_files(lake, RATINGS, [file])
    reason = "event_time: not a time (ISO 8601)"
    assert (report.accepted, report.reasons) == (1, {reason: 2})
    assert '"when":"yesterday"' in report.examples[reason]


def test_a_file_of_bad_dates_only_is_refused_and_nothing_is_stored(lake, csv):
    with pytest.raises(DataError, match=r"none of 2 row\(s\) is valid\n.*not a time .*\(2 row"):
        import_files(lake, RATINGS, [csv(HEADER + "ann,7,4,soon\nbob,7,3,later\n")])
    assert lake.versions() == {}


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ({"unit": "s"}, "1767323045"),
        ({"unit": "s"}, "1767323045.0"),
        ({"unit": "ms"}, "1767323045000"),
        ({"unit": "ns"}, "1767323045000000000"),
        ({"format": "%d.%m.%Y %H:%M:%S"}, "02.01.2026 03:04:05"),
        ({"format": "%d.%m.%Y %H:%M:%S", "zone": "Europe/Berlin"}, "02.01.2026 04:04:05"),
        ({"zone": "Asia/Kolkata"}, "2026-01-02 08:34:05"),
        ({}, "2026-01-02 03:04:05+00:00"),
    ],
)
def test_times_are_read_as_the_mapping_says(lake, csv, style, text):
    import_files(lake, mapped(times={"event_time": style}), [csv(HEADER + f"ann,7,4,{text}\n")])
    assert stored(lake, "SELECT epoch_us(event_time) FROM events") == [(1_767_323_045_000_000,)]


def test_numbers_beyond_any_time_are_quarantined(lake, csv):
    file = csv(HEADER + f"ann,7,4,1767323045\nbob,7,4,{10**30}\ncid,7,4,1767323045000\n")
    report = import_files(lake, mapped(times={"event_time": {"unit": "s"}}), [file])
    assert (report.accepted, report.quarantined) == (1, 2)


def test_lists_are_split_and_values_are_translated(lake, csv):
    mapping = Mapping.model_validate(
        {
            "table": "items",
            "columns": {"item_id": "sku", "genres": "tags", "maturity": "rated", "available_at": "since"},
            "lists": {"genres": ";"},
            "values": {"maturity": {"PG": "8", "R": "17", "unrated": None}},
        }
    )
    file = csv("sku,tags,rated,since\na,Drama; War ;,R,2026-01-01\nb,,unrated,2026-01-01\n")
    import_files(lake, mapping, [file])
    rows = stored(lake, "SELECT item_id, genres, maturity FROM items ORDER BY 1")
    assert rows == [("a", ["Drama", "War"], 17), ("b", [], None)]


def test_parquet_keeps_its_types_and_needs_no_formats(lake, tmp_path):
    table = pa.table(
        {
            "who": pa.array([1, 2], pa.int16()),
            "what": pa.array([10, 20], pa.int64()),
            "stars": pa.array([4.0, 2.0], pa.float32()),
            "when": pa.array([1_767_323_045_000, 1_767_323_046_000], pa.timestamp("ms", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "ratings.parquet")
    import_files(lake, RATINGS, [tmp_path / "ratings.parquet"])
    rows = stored(lake, "SELECT user_id, item_id, value, epoch_ms(event_time) FROM events ORDER BY 1")
    assert rows == [("1", "10", 4.0, 1_767_323_045_000), ("2", "20", 2.0, 1_767_323_046_000)]


def test_several_files_are_one_import(lake, csv):
    files = [csv(HEADER + f"u{n},7,4,2026-01-02\n", f"part{n}.csv") for n in range(3)]
    assert import_files(lake, RATINGS, files).accepted == 3


def test_columns_that_the_file_lacks_are_named_with_the_ones_it_has(lake, csv):
    with pytest.raises(DataError) as caught:
        import_files(lake, RATINGS, [csv("user,what,score,when\n1,2,3,2026-01-01\n")])
    message = str(caught.value)
    assert "ratings.csv" in message
    assert "there is no column who" in message
    assert "there is no column stars" in message
    assert "there are user, what, score, when" in message


def test_every_file_with_a_problem_is_named_at_once_and_nothing_is_stored(lake, csv, tmp_path):
    files = [
        csv(HEADER + "ann,7,4,2026-01-02\n", "good.csv"),
        csv("", "empty.csv"),
        csv(HEADER, "header.csv"),
        csv("PAR1", "broken.parquet"),
        csv("{}", "ratings.json"),
        tmp_path / "missing.csv",
    ]
    with pytest.raises(DataError) as caught:
        import_files(lake, RATINGS, files)
    told = {problem.split(": ")[0].rsplit("/", 1)[1]: problem for problem in caught.value.problems}
    assert "the file is empty" in told["empty.csv"]
    assert "0 rows" in told["header.csv"]
    assert "cannot be read" in told["broken.parquet"]
    assert "unknown kind of file" in told["ratings.json"]
    assert "no such file" in told["missing.csv"]
    assert "good.csv" not in told
    assert lake.versions() == {}


@pytest.mark.parametrize("lines", [0, 3, 200_000])
def test_a_wrong_encoding_is_named_with_its_line_and_offset(lake, csv, lines):
    before = HEADER + "ann,7,4,2026-01-02\n" * lines
    file = csv(before + "zoë,7,4,2026-01-02\n", encoding="latin-1")
    with pytest.raises(DataError) as caught:
        import_files(lake, RATINGS, [file])
    assert f"not utf-8: byte 0xeb at offset {len(before) + 2} in line {lines + 2};" in str(caught.value)


def test_the_encoding_may_be_configured(lake, csv):
    file = csv(HEADER + "zoë,7,4,2026-01-02\n", encoding="latin-1")
    import_files(lake, mapped(csv={"encoding": "latin-1"}), [file])
    assert stored(lake, "SELECT user_id FROM events") == [("zoë",)]


def test_a_compressed_csv_with_another_delimiter_is_read(lake, tmp_path):
    path = tmp_path / "ratings.csv.gz"
    path.write_bytes(gzip.compress(b"who;what;stars;when\n'a;b';7;4;2026-01-02\n"))
    import_files(lake, mapped(csv={"delimiter": ";", "quote": "'"}), [path])
    assert stored(lake, "SELECT user_id FROM events") == [("a;b",)]


def test_a_ragged_line_is_an_error_that_names_the_file(lake, csv):
    body = "".join(f"u{n},7,4,2026-01-02\n" for n in range(100_000))
    with pytest.raises(DataError, match=r"ratings\.csv"):
        import_files(lake, RATINGS, [csv(HEADER + body + "ann,7\n")])


def test_rows_without_a_required_value_are_quarantined(lake, csv):
    report = import_files(lake, RATINGS, [csv(HEADER + ",7,4,2026-01-02\nbob,7,4,2026-01-02\n")])
    assert report.accepted == 1
    assert report.quarantined == 1


def test_all_mistakes_of_a_mapping_are_reported_at_once(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "columns: {user: who, item_id: what, event_time: when}\n"
        "constants: {item_id: x, value: many}\n"
        "times: {event_time: {zone: Mars/Olympus}, value: {unit: s}}\n"
        "lists: {type: ','}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_mapping(path, "events")
    problems = "\n".join(caught.value.problems)
    for expected in (
        "columns.user: table events has no column user",
        "item_id: mapped more than once",
        "event_id: required by table events, not mapped",
        "type: required",
        "user_id: required",
        "constants.value: 'many' is not a DOUBLE",
        "times.event_time: no time zone Mars/Olympus",
        "times.value: not a time column",
        "lists.type: not a list column",
    ):
        assert expected in problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colums: {}\ncsv: {encoding: ebcdic}\n", r"csv\.encoding: .*\n.*colums: Extra inputs"),
        ("- a\n- b\n", "holds a list"),
        ("a: [", "is not YAML"),
        ("table: users\n", "maps table users, not events"),
    ],
)
def test_a_mapping_that_is_no_mapping_is_named(tmp_path, text, message):
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_mapping(path, "events")


def test_a_missing_mapping_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no mapping at .*nowhere\.yaml"):
        load_mapping(tmp_path / "nowhere.yaml")
