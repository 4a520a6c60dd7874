from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.pair_scores import pair_scores
from tests.kernels.problems import random_vectors


@pytest.mark.parametrize("width", [1, 2, 9, 65, 200])
@pytest.mark.parametrize("biases", [False, True])
def test_equals_a_loop_and_does_not_depend_on_other_pairs(width, biases):
    rng = np.random.default_rng(width)
    left, right = random_vectors(37, width, rng), random_vectors(37, width, rng)
    scores = pair_scores(left, right, 3.4, biases)
    rank = width - int(biases)
    for place in range(37):
        expected = 3.4 + sum(float(left[place, f]) * float(right[place, f]) for f in range(rank))
        if biases:
            expected += float(left[place, -1]) + float(right[place, -1])
        assert_allclose(scores[place], expected, rtol=1e-13)
        one = pair_scores(left[place : place + 1], right[place : place + 1], 3.4, biases)
        assert_array_equal(one, scores[place : place + 1])


def test_no_pairs_have_no_scores():
    assert pair_scores(np.ones((0, 3), np.float32), np.ones((0, 3), np.float32), 1.0, True).shape == (0,)


def test_unequal_shapes_are_rejected():
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(1, 3\)"):
        pair_scores(np.ones((2, 3), np.float32), np.ones((1, 3), np.float32), 1.0, True)
