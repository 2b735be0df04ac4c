"""What the tests of rules share: requests, candidates and a stand-in for a bundle's parts over the twelve films."""

from types import SimpleNamespace

import numpy as np
from serving_world import NOW_US, VOCABULARY, catalogue, embeddings

from serving.core.candidates import Candidates, found
from serving.core.query import Context, Filters

ROWS = np.array([3, 0, 2, 1], np.int32)


def request(
    age=40.0,
    country=None,
    seen=(),
    excluded=(),
    ignored=(),
    now_us=NOW_US,
    prediction_id="p",
    cursor=None,
    offset=0,
    **filters,
):
    """A request as rules read it."""
    return SimpleNamespace(
        query=SimpleNamespace(context=Context(country=country), filters=Filters(**filters), cursor=cursor),
        now_us=now_us,
        age_years=age,
        seen=_sorted(seen),
        excluded=_sorted(excluded),
        ignored=_sorted(ignored),
        prediction_id=prediction_id,
        offset=offset,
    )


def candidates(rows, scores=None) -> Candidates:
    """These rows in this order; scores fall by one down to 1 unless they are given."""
    scores = np.arange(len(rows), 0, -1) if scores is None else scores
    return found(np.asarray(rows, np.int32), np.asarray(scores, np.float32))


def parts(table=None, vectors=None, **columns):
    """The twelve films with other values in some columns, `{row: value}` each."""
    if table is None:
        table = catalogue(**{name: _changed(name, values) for name, values in columns.items()})
    vectors = embeddings() if vectors is None else np.asarray(vectors, np.float32)
    return SimpleNamespace(table=lambda: table, vocabulary=VOCABULARY, item_vectors=lambda rows: vectors[rows])


def outcome(rule, asked, pool):
    """Rows kept in their order, rows removed by reason, rows marked by reason; each candidate is there once."""
    ruled = rule.apply(asked, pool)
    removed = {r.reason: r.rows.tolist() for r in ruled.removed}
    after = ruled.kept.row.tolist() + [row for rows in removed.values() for row in rows]
    assert sorted(after) == sorted(pool.row.tolist())
    assert not {row for mark in ruled.marked for row in mark.rows.tolist()} - set(ruled.kept.row.tolist())
    return ruled.kept.row.tolist(), removed, {m.reason: m.rows.tolist() for m in ruled.marked}


def _sorted(rows):
    return np.array(sorted(rows), np.int32)


def _changed(name, values):
    column = getattr(catalogue(), name).copy()
    for row, value in values.items():
        column[row] = value
    return column
