import numpy as np
import pytest
from rule_world import candidates, outcome, parts, request

from serving.rules.diversity import DiversityRule, marginal, relevance


def diversity(world=None, **settings):
    return DiversityRule(world or parts(), DiversityRule.Settings(**settings))


def literal(worth, similarity, strength, count):
    """The published greedy rule, word by word."""
    picks = [0]
    while len(picks) < count:
        left = [i for i in range(len(worth)) if i not in picks]
        value = [(1 - strength) * worth[i] - strength * max(similarity[i][j] for j in picks) for i in left]
        picks.append(left[int(np.argmax(value))])
    return picks


def likeness(rows, similarity):
    """The mean similarity of pairs."""
    pairs = similarity[np.ix_(rows, rows)]
    return pairs[~np.eye(len(rows), dtype=bool)].mean()


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_picks_are_those_of_the_published_rule(strength, seed):
    generator = np.random.default_rng(seed)
    traits = generator.normal(size=(57, 9)).astype(np.float32)
    traits /= np.linalg.norm(traits, axis=1, keepdims=True)
    worth = relevance(np.sort(generator.normal(size=57))[::-1].astype(np.float32))
    expected = literal(worth.tolist(), (traits @ traits.T).tolist(), strength, 20)
    assert marginal(worth, traits, strength, 20).tolist() == expected


def test_no_strength_is_no_change_at_all():
    pool = candidates(range(12))
    assert diversity(strength=0).apply(request(), pool).kept is pool


def test_full_strength_alternates_between_what_is_unlike():
    # even films are all Action and alike, odd ones Comedy
    rows, _, marked = outcome(diversity(strength=1, depth=2), request(), candidates([0, 2, 4, 1, 3]))
    assert rows == [0, 1, 2, 4, 3]
    assert marked == {"diverse": [1]}


def test_more_strength_is_never_more_alike_on_average():
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(12, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    means = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        rule = diversity(parts(vectors=vectors), strength=strength, depth=5, genre_share=0.0)
        alike = [
            likeness(outcome(rule, request(), candidates(generator_order))[0][:5], similarity)
            for generator_order in (np.random.default_rng(seed).permutation(12) for seed in range(100))
        ]
        means.append(np.mean(alike))
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0] - 0.05


def test_only_genres_count_where_they_have_all_of_the_similarity():
    vectors = np.tile(np.eye(4)[0], (12, 1))
    rule = diversity(parts(vectors=vectors), strength=0.9, depth=2, genre_share=1.0)
    assert outcome(rule, request(), candidates([0, 2, 4, 1]))[0] == [0, 1, 2, 4]


def test_beyond_depth_and_pool_the_order_stays():
    rows = outcome(diversity(strength=1, depth=2, pool=4), request(), candidates([0, 2, 4, 6, 8, 1, 3]))[0]
    assert rows[0] == 0
    assert rows[2:4] == sorted(rows[2:4])
    assert rows[4:] == [8, 1, 3]


def test_scores_below_zero_and_of_any_scale_give_the_same_order():
    pool, scores = [0, 2, 4, 1, 3, 5], np.array([9, 8, 7, 4, 3, 1.0])
    orders = [outcome(diversity(strength=0.4), request(), candidates(pool, scores * a + b))[0]
              for a, b in ((1, 0), (1, -20), (1000, 5))]  # fmt: skip
    assert orders[0] == orders[1] == orders[2] != pool


def test_where_all_are_equal_and_alike_the_order_stays():
    world = parts(vectors=np.tile(np.eye(4)[0], (12, 1)), genre_mask=dict.fromkeys(range(12), 1))
    assert outcome(diversity(world, strength=0.7), request(), candidates([5, 2, 9, 1], [1, 1, 1, 1]))[0] == [5, 2, 9, 1]


def test_a_film_without_genres_is_like_no_other_by_genre():
    world = parts(vectors=np.zeros((12, 4)), genre_mask={1: 0})
    assert outcome(diversity(world, strength=1, depth=2), request(), candidates([0, 2, 4, 1]))[0] == [0, 1, 2, 4]
