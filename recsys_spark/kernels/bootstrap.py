"""How far measures could be off: the same users, each counted a random number of times."""

import numpy as np
import numpy.typing as npt

from recsys_spark.kernels.arrays import Float64Array, IntArray

# Of SplitMix64: the step of its counter, and the two multipliers of its mixer.
_STEP, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# P(count <= k) of a Poisson variable of mean 1; the next step is beyond what 53 random bits tell from 1.
_CUMULATED = np.cumsum(np.exp(-1.0) / np.concatenate([[1.0], np.cumprod(np.arange(1.0, 17.0))]))
_USERS_AT_ONCE = 1 << 14


def random_bits(users: IntArray, n_streams: int, seed: int) -> npt.NDArray[np.uint64]:
    """Return 64 random bits for each user and stream, from (seed, user, stream) alone.

    Parameters
    ----------
    users : integer array of shape (m,)
    n_streams : int
    seed : int

    Returns
    -------
    uint64 array of shape (m, n_streams)

    References
    ----------
    Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators. doi:10.1145/2660193.2660195
    """
    start = _mixed(users.astype(np.uint64) * _STEP + np.uint64(seed % (1 << 64)))
    return _mixed(start[:, None] + np.arange(1, n_streams + 1, dtype=np.uint64) * _STEP)


def poisson_weights(users: IntArray, n_replicates: int, seed: int) -> Float64Array:
    """Return how often each user counts in each replicate: Poisson of mean 1, from (seed, user, replicate) alone.

    Parameters
    ----------
    users : integer array of shape (m,)
    n_replicates : int
    seed : int

    Returns
    -------
    float64 array of shape (m, n_replicates)
        Whole numbers. A user counts alike wherever the user is measured, so that two models that are measured on
        the same users can be compared replicate by replicate.

    References
    ----------
    Chamandy et al. (2012), Estimating uncertainty for massive data streams. Google technical report.
    """
    uniform = (random_bits(users, n_replicates, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_CUMULATED, uniform, side="right").astype(np.float64)


def replicated_sums(values: Float64Array, users: IntArray, n_replicates: int, seed: int) -> Float64Array:
    """Add up values over users: as they are, and in every replicate.

    Parameters
    ----------
    values : float64 array of shape (m, k)
        NaN where a user has no such value; it adds nothing.
    users : integer array of shape (m,)
    n_replicates : int
        0: only the sums as they are.
    seed : int

    Returns
    -------
    float64 array of shape (1 + n_replicates, k)
        Row 0 holds the plain sums.

    Notes
    -----
    O(m n_replicates k); users are taken in parts of 16,384, in their order.
    """
    present = np.nan_to_num(values, nan=0.0)
    sums = np.zeros((1 + n_replicates, values.shape[1]))
    sums[0] = present.sum(axis=0)
    for first in range(0, len(users) if n_replicates else 0, _USERS_AT_ONCE):
        part = slice(first, first + _USERS_AT_ONCE)
        sums[1:] += poisson_weights(users[part], n_replicates, seed).T @ present[part]
    return sums


def interval(replicates: Float64Array, coverage: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a measure's replicates; NaN where fewer than two are finite."""
    finite = replicates[np.isfinite(replicates)]
    if len(finite) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
