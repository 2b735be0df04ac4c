import pytest
from pydantic import ValidationError

from serving.core.query import Query


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"usr_id": "u1"}, ("usr_id",)),
        ({"k": 0}, ("k",)),
        ({"k": "many"}, ("k",)),
        ({"context": {"mood": "good"}}, ("context", "mood")),
        ({"context": {"country": "Germany"}}, ("context", "country")),
        ({"context": {"time": "2026-01-01T00:00:00"}}, ("context", "time")),
        ({"user_id": "ä" * 65}, ("user_id",)),
        ({"user_id": ""}, ("user_id",)),
        ({"user_id": "a\x00b"}, ("user_id",)),
        ({"exclude": ["i"] * 1001}, ("exclude",)),
        ({"exclude": ["ok", ""]}, ("exclude", 1)),
        ({"filters": {"decade": 1990}}, ("filters", "decade")),
    ],
)
def test_a_mistake_in_a_query_names_its_field(document, field):
    with pytest.raises(ValidationError) as caught:
        Query.model_validate(document)
    assert caught.value.errors()[0]["loc"] == field


def test_an_empty_query_asks_for_twenty_items_for_nobody():
    query = Query.model_validate({})
    assert (query.k, query.user_id, query.exclude, query.explain) == (20, None, (), False)


def test_an_id_of_exactly_128_bytes_is_accepted():
    assert Query.model_validate({"user_id": "ä" * 64}).user_id == "ä" * 64
