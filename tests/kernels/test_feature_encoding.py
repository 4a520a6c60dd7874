"""Encoded features against scikit-learn's encoders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.feature_encoding import (
    beside_each_other,
    dense_rows,
    indicated,
    inverse_document_frequencies,
    mean_and_deviation,
    mean_shift,
    shares_moved,
    standardised,
    tf_idf,
)

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize("value", [0.1, 0.01, 19.99, 1e-7, 3.3e12])
@pytest.mark.parametrize("n", [2, 3, 7, 11, 50])
def test_a_constant_has_no_deviation_though_its_mean_is_rounded(value: float, n: int) -> None:
    assert mean_and_deviation(np.full(n, value)) == (value, 0.0)


def test_what_rounding_may_have_made_is_no_deviation() -> None:
    values = np.array([0.1, np.nextafter(0.1, 1.0)] * 8)
    mean, deviation = mean_and_deviation(values)
    assert mean == pytest.approx(0.1)
    assert deviation == 0.0
    assert mean_and_deviation(values + [0.0, 1e-12] * 8)[1] == pytest.approx(5e-13, rel=1e-3)


@given(st.lists(FINITE | st.just(math.nan), min_size=2, max_size=20))
def test_standardised_values_are_those_of_standard_scaler(cells: list[float]) -> None:
    values = np.array(cells, np.float64)
    mean, deviation = mean_and_deviation(values)
    found = dense_rows(beside_each_other([(0, 1.0, standardised(values, mean, deviation))], len(values)), 1)[:, 0]
    known = values[~np.isnan(values)]
    if not len(known) or known.min() == known.max():
        assert not found.any()
        return
    assert (mean, deviation) == mean_and_deviation(values[::-1])
    # It takes a deviation that rounding alone can explain for none.
    if deviation > 1e-5 * abs(mean):
        expected = np.nan_to_num(StandardScaler().fit_transform(values[:, None])[:, 0], nan=0.0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_indicated_values_are_those_of_multi_label_binarizer() -> None:
    rows = [["b", "a"], [], ["c"], ["x", "b", "c"], ["x"]]
    classes = ["a", "b", "c"]
    codes = np.array([classes.index(value) if value in classes else -1 for row in rows for value in row])
    entries = indicated(np.array([len(row) for row in rows]), codes)
    found = dense_rows(beside_each_other([(0, 1.0, entries)], len(rows)), 3)
    with pytest.warns(UserWarning, match="unknown class"):
        expected = MultiLabelBinarizer(classes=classes).fit([[]]).transform(rows)
    np.testing.assert_array_equal(found, expected)


@given(st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=1, max_size=10))
def test_words_are_weighted_as_by_tfidf_transformer(documents: list[list[int]]) -> None:
    counts = np.array([np.bincount(words, minlength=7) if words else np.zeros(7, int) for words in documents])
    lengths, words = np.array([len(d) for d in documents]), np.array([w for d in documents for w in d], np.int32)
    idf = inverse_document_frequencies((counts > 0).sum(axis=0), len(documents))
    found = dense_rows(beside_each_other([(0, 1.0, tf_idf(lengths, words, idf))], len(documents)), 7)
    np.testing.assert_allclose(found, TfidfTransformer().fit_transform(counts).toarray(), atol=1e-6)


def test_features_stand_beside_each_other_with_their_weights() -> None:
    numbers = standardised(np.array([1.0, np.nan, 3.0, 2.0]), 2.0, 1.0)
    values = indicated(np.array([1, 2, 0, 0]), np.array([1, 0, 1]))
    rows = beside_each_other([(2, 0.5, values), (0, 2.0, numbers)], 4)
    np.testing.assert_array_equal(dense_rows(rows, 4), [[-2, 0, 0, 0.5], [0, 0, 0.5, 0.5], [2, 0, 0, 0], [0, 0, 0, 0]])
    assert rows.columns.tolist() == [0, 3, 2, 3, 0], "a value at the mean takes no place"
    assert dense_rows(beside_each_other([], 2), 0).shape == (2, 0)


def test_words_without_a_number_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[0, 3\), got 0 to 3"):
        tf_idf(np.array([2]), np.array([0, 3]), np.ones(3))


def test_drift_is_told_in_deviations_and_shares() -> None:
    assert mean_shift(10.0, 2.0, 13.0) == 1.5
    assert mean_shift(10.0, 0.0, 10.0) == 0.0
    assert mean_shift(10.0, 0.0, 10.5) == math.inf
    assert shares_moved(np.array([5, 5, 0]), np.array([10, 0, 10])) == pytest.approx(0.5)
    assert shares_moved(np.array([1, 3]), np.array([2, 6])) == 0.0
    assert shares_moved(np.array([0, 0]), np.array([0, 1])) == 1.0
    assert shares_moved(np.array([0]), np.array([0])) == 0.0
