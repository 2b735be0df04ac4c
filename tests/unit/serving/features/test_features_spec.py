from serving.config import Vocabulary
from serving.features.spec import VIEWS, film_features


def test_there_are_more_than_200_features_with_names_and_descriptions_of_their_own() -> None:
    features = film_features(Vocabulary())

    assert len(features.names) >= 200
    assert len(set(features.names)) == len(features.names)
    for columns in features.views.values():
        described = {f.description for f in columns}
        assert "" not in described
        assert len(described) == len(columns)


def test_the_matrix_order_is_user_item_context_pair_affinity() -> None:
    features = film_features(Vocabulary())

    assert VIEWS == ("user", "item", "context", "pair", "affinity")
    assert [name.split("_")[0] for name in features.names] == [v for v in VIEWS for _ in features.views[v]]


def test_one_hot_and_share_features_follow_the_vocabulary() -> None:
    features = film_features(Vocabulary(genres=("Noir", "Sci-Fi"), countries=("NL",)))

    assert "user_genre_sci_fi_30d" in features.names
    assert "context_country_nl" in features.names
    assert not any("drama" in name for name in features.names)
