from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.kernels.label_metrics import N_BINS, auc, label_histogram, log_loss_sum


def random_guesses(seed, n=400):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.float64)
    # On the bins' lower edges: equal guesses and equal bins are then the same thing.
    guesses = np.floor(np.clip(0.3 * labels + 0.7 * rng.random(n), 0, 1) * 50) / 64
    return guesses, labels


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed):
    guesses, labels = random_guesses(seed)
    ones, zeros = guesses[labels == 1], guesses[labels == 0]
    wins = sum(float(one > zero) + 0.5 * float(one == zero) for one in ones for zero in zeros)
    halves = [label_histogram(guesses[part], labels[part]) for part in (slice(0, 150), slice(150, None))]
    assert halves[0].shape == (2, N_BINS)
    assert_allclose(auc(halves[0] + halves[1]), wins / (len(ones) * len(zeros)), rtol=1e-12)


def test_log_loss_is_that_of_a_plain_loop():
    guesses, labels = random_guesses(9)
    guesses = np.clip(guesses, 0.01, 0.99)
    expected = -sum(math.log(p if y else 1 - p) for p, y in zip(guesses, labels, strict=True))
    assert_allclose(log_loss_sum(guesses, labels), expected, rtol=1e-12)
    assert math.isfinite(log_loss_sum(np.array([0.0, 1.0]), np.array([1.0, 0.0])))


def test_edges():
    assert math.isnan(auc(label_histogram(np.array([0.2]), np.array([1.0]))))
    everything = label_histogram(np.array([0.0, 1.0, 1.0, -0.1]), np.array([0.0, 1.0, 0.0, 0.0]))
    assert everything.sum() == 4
    assert_allclose(auc(everything), (2 + 0.5) / 3)
