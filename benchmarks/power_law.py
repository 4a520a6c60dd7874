"""Synthetic ratings shaped like real ones: lognormal user activity, Zipf items, a planted low-rank taste."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# MovieLens-20M has about this many ratings per user, and 27 thousand items at 15.8 million ratings.
_RATINGS_PER_USER = 115
_ITEMS_AT_15_8_MILLION = 27_000
_TASTE_RANK = 8


@dataclass(frozen=True, slots=True)
class PowerLawRatings:
    """Distinct (user, item) pairs with ratings from 1 to 5 in halves, in random order."""

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    n_users: int
    n_items: int


def power_law_ratings(n_ratings: int, seed: int = 0) -> PowerLawRatings:
    """Draw about ``n_ratings`` distinct pairs and rate them.

    Users draw their number of ratings from a lognormal distribution (sigma 1.2), items from a Zipf law with
    exponent 0.9; the rating is a mean, two biases, a taste of rank 8 and noise.
    """
    rng = np.random.default_rng(seed)
    n_users = max(10, n_ratings // _RATINGS_PER_USER)
    n_items = max(10, int(_ITEMS_AT_15_8_MILLION * (n_ratings / 15.8e6) ** 0.5))
    activity = rng.lognormal(0.0, 1.2, n_users)
    share = np.minimum(activity / activity.sum(), 0.5 * n_items / n_ratings)
    popularity = 1.0 / np.arange(1, n_items + 1) ** 0.9
    items_by_popularity = np.cumsum(popularity / popularity.sum())

    keys = np.empty(0, np.int64)
    while len(keys) < n_ratings:
        n_more = int(1.1 * (n_ratings - len(keys))) + 100
        users = np.repeat(np.arange(n_users), rng.multinomial(n_more, share / share.sum()))
        items = np.minimum(np.searchsorted(items_by_popularity, rng.random(len(users))), n_items - 1)
        keys = np.unique(np.concatenate([keys, users * n_items + items]))
    keys = rng.permutation(keys)[:n_ratings]
    users, items = (keys // n_items).astype(np.int32), (keys % n_items).astype(np.int32)
    return PowerLawRatings(users, items, _rate(users, items, n_users, n_items, rng), n_users, n_items)


def _rate(
    users: npt.NDArray[np.int32],
    items: npt.NDArray[np.int32],
    n_users: int,
    n_items: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    user_taste, item_taste = (rng.normal(0, 0.45, (n, _TASTE_RANK)).astype(np.float32) for n in (n_users, n_items))
    user_bias, item_bias = rng.normal(0, 0.35, n_users), rng.normal(0, 0.35, n_items)
    ratings = np.empty(len(users), np.float32)
    for start in range(0, len(users), 1_000_000):
        u, i = users[start : start + 1_000_000], items[start : start + 1_000_000]
        taste = (user_taste[u] * item_taste[i]).sum(axis=1)
        raw = 3.5 + user_bias[u] + item_bias[i] + taste + rng.normal(0, 0.7, len(u))
        ratings[start : start + len(u)] = np.clip(np.round(2 * raw) / 2, 1, 5)
    return ratings
