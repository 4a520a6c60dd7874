from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from recsys_spark.kernels.label_metrics import area_under_roc, auc, auc_of_rows, log_losses, rank_labels

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3), st.booleans()), max_size=40)


def test_log_loss_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 200).astype(float), rng.random(200)
    assert log_losses(probabilities, labels).mean() == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
    assert np.isfinite(log_losses(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


@given(ROWS, st.integers(-3, 3))
def test_area_is_scikit_learns_however_scores_are_cut_into_stretches(
    rows: list[tuple[int, int, bool]], cut: int
) -> None:
    scores, is_one = np.array([r[1] for r in rows], float), np.array([r[2] for r in rows], bool)
    parts = [part for part in (scores < cut, scores >= cut) if part.any()]
    found = area_under_roc([rank_labels(scores[part], is_one[part]) for part in parts[::-1]])
    if len(set(is_one.tolist())) < 2:
        assert math.isnan(found)
        assert math.isnan(auc(scores, is_one))
    else:
        assert found == pytest.approx(roc_auc_score(is_one, scores), rel=1e-12)
        assert found == auc(scores, is_one)


@given(ROWS)
def test_area_of_every_row_is_scikit_learns(rows: list[tuple[int, int, bool]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    row, scores = np.array([r[0] for r in rows], int), np.array([r[1] for r in rows], float)
    is_one = np.array([r[2] for r in rows], bool)
    indptr = np.searchsorted(row, np.arange(5))
    for number, found in enumerate(auc_of_rows(indptr, scores, is_one)):
        mine = row == number
        if len(set(is_one[mine].tolist())) < 2:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(roc_auc_score(is_one[mine], scores[mine]), rel=1e-12)
