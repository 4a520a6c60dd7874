"""Which ratings are held out: decided per pair by a hash, the same in every run."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

_BUCKETS = 1_000_000


def is_held_out(share: float, seed: int) -> Column:
    """Return whether a rating of ``indexed_ratings`` is held out, for about ``share`` of them."""
    bucket = F.pmod(F.xxhash64("user_index", "item_index", F.lit(seed)), F.lit(_BUCKETS))
    return bucket < F.lit(round(share * _BUCKETS))


def split_ratings(ratings: DataFrame, share: float, seed: int) -> tuple[DataFrame, DataFrame]:
    """Return (training, held-out) ratings; a projection, no shuffle."""
    held_out = is_held_out(share, seed)
    return ratings.where(~held_out), ratings.where(held_out)
