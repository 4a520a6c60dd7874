"""Which ratings are held out: decided per pair by a hash, the same in every run."""

from __future__ import annotations

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import BoolArray, IntArray

_BUCKETS = 1_000_000
# Of 64-bit xxHash: the first, second, third and fifth; and the seed that Spark gives it.
_PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
_SPARK_SEED = 42
_MASK = (1 << 64) - 1


def is_held_out(share: float, seed: int) -> Column:
    """Return whether a rating of ``indexed_ratings`` is held out, for about ``share`` of them."""
    bucket = F.pmod(F.xxhash64("user_index", "item_index", F.lit(seed)), F.lit(_BUCKETS))
    return bucket < F.lit(round(share * _BUCKETS))


def share_of(index: str, share: float, seed: int) -> Column:
    """Return whether a user or an item is among about ``share`` of all, by a hash of the index column's value."""
    return F.pmod(F.xxhash64(index, F.lit(seed)), F.lit(_BUCKETS)) < F.lit(round(share * _BUCKETS))


def split_ratings(ratings: DataFrame, share: float, seed: int) -> tuple[DataFrame, DataFrame]:
    """Return (training, held-out) ratings; a projection, no shuffle."""
    held_out = is_held_out(share, seed)
    return ratings.where(~held_out), ratings.where(held_out)


def split_by_item(ratings: DataFrame, share: float, seed: int) -> tuple[DataFrame, DataFrame]:
    """Return (training, held-out) ratings, all of an item on one side, for about ``share`` of the items."""
    bucket = F.pmod(F.xxhash64("item_index", F.lit(seed), F.lit("items")), F.lit(_BUCKETS))
    held_out = bucket < F.lit(round(share * _BUCKETS))
    return ratings.where(~held_out), ratings.where(held_out)


def are_held_out(user_index: int, item_index: IntArray, share: float, seed: int) -> BoolArray:
    """Return what `is_held_out` says of one user's ratings, without Spark: bool array of shape (n,)."""
    limit = round(share * _BUCKETS)
    of_user = _hash_int(user_index, _SPARK_SEED)
    hashes = [_hash_int(seed, _hash_int(int(item), of_user)) for item in item_index]
    signed = [number - (1 << 64) if number >> 63 else number for number in hashes]
    return np.array([number % _BUCKETS < limit for number in signed], np.bool_)


def _hash_int(number: int, seed: int) -> int:
    """Hash four bytes as 64-bit xxHash does; of several columns, Spark hashes each with the last one's hash as seed."""
    one, two, three, five = _PRIMES
    mixed = (seed + five + 4) & _MASK
    mixed ^= (number & 0xFFFFFFFF) * one & _MASK
    mixed = ((mixed << 23 | mixed >> 41) * two + three) & _MASK
    mixed = (mixed ^ mixed >> 33) * two & _MASK
    mixed = (mixed ^ mixed >> 29) * three & _MASK
    return mixed ^ mixed >> 32
