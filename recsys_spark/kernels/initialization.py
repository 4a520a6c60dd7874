"""The first factors of a row, from (seed, side, index) alone."""

import math

import numpy as np
import numpy.typing as npt

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, IntArray

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1
_SIXTEEN_BITS = np.uint64(0xFFFF)


def initial_factors(seed: int, side: int, index: IntArray, rank: int) -> Float32Array:
    """Draw the starting factors of the rows ``index``.

    A row depends on (seed, side, its index, rank) alone, never on its neighbours or on the partition, and
    only integer arithmetic and one exact product lie between the seed and the bits: every machine draws the
    same factors.

    Parameters
    ----------
    seed : int
        Any integer; taken modulo 2**64.
    side : int
        Which side the rows belong to (for instance 0: users, 1: items), so that a user and an item with
        the same index get unrelated factors.
    index : integer array of shape (n,)
        Global row indexes, >= 0.
    rank : int >= 0
        Number of factors; 0 gives an array of shape (n, 0).

    Returns
    -------
    float32 array of shape (n, rank)
        Nearly normal with mean 0 and standard deviation ``1 / sqrt(rank)``, so that a row's length is about 1
        at every rank. Shorter rows make the first side's penalty weigh more than the errors it could mend,
        and several iterations go by before the factors grow: at a length of 0.1 the objective after six
        iterations was still above that after two from a length of 1.

    Raises
    ------
    ShapeError
        If ``rank`` < 0.

    Notes
    -----
    O(n rank). Each entry hashes its own counter with the finaliser of SplitMix64 and adds the four 16-bit
    quarters of the hash: a sum of four uniforms is close enough to normal for a start (its excess kurtosis
    is -0.3), and needs no logarithm, whose last bit differs between processors.

    References
    ----------
    Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators. doi:10.1145/2660193.2660195
    """
    if rank < 0:
        raise ShapeError(f"rank must be >= 0, got {rank}")
    stream = _stream_key(seed, side)
    rows = _mix(np.asarray(index).astype(np.uint64) * np.uint64(_GOLDEN_GAMMA) + stream)
    columns = np.arange(1, rank + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    bits = _mix(rows[:, None] + columns[None, :])
    total = bits & _SIXTEEN_BITS
    for shift in (16, 32, 48):
        total += (bits >> np.uint64(shift)) & _SIXTEEN_BITS
    # Four uniforms on 0..65535 have mean 4 * 32767.5 and variance 4 * (65536**2 - 1) / 12.
    centred = total.astype(np.float64) - 4 * 32767.5
    deviation = math.sqrt((65536**2 - 1) / 3)
    return np.asarray(centred / (deviation * math.sqrt(max(rank, 1))), dtype=np.float32)


def _stream_key(seed: int, side: int) -> np.uint64:
    """Hash seed and side, one after the other, so that (0, 1) and (1, 0) start unrelated streams."""
    key = np.array([seed & _MASK_64], dtype=np.uint64)
    for part in (0, side & _MASK_64):
        key = _mix(key + np.array([(part + 1) * _GOLDEN_GAMMA & _MASK_64], dtype=np.uint64))
    return np.uint64(key[0])


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finaliser of SplitMix64: a bijection on 64 bits that flips half of them for each changed input bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
