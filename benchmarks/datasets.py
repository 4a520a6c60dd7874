"""Public data sets as arrays. Their licences do not let us ship them: they are read from where you keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peer_models import Ratings

N_FOLDS = 5
_N_USERS, _N_ITEMS = 943, 1682


def movielens_folds(folder: Path) -> list[tuple[Ratings, Ratings]]:
    """Read the official folds u1 to u5 of MovieLens 100K as pairs of training and test ratings."""
    names = range(1, N_FOLDS + 1)
    return [(_movielens(folder / f"u{n}.base"), _movielens(folder / f"u{n}.test")) for n in names]


def movielens(folder: Path) -> Ratings:
    """Read all of MovieLens 100K."""
    return _movielens(folder / "u.data")


def _movielens(path: Path) -> Ratings:
    columns = np.loadtxt(_existing(path), dtype=np.int32)
    users, items, values = columns[:, 0] - 1, columns[:, 1] - 1, columns[:, 2].astype(np.float32)
    return Ratings(users, items, values, _N_USERS, _N_ITEMS)


def books(folder: Path, seed: int) -> tuple[Ratings, Ratings]:
    """Read the demo's ratings, the mean of those of one pair, and hold a random tenth of the pairs out."""
    columns = np.loadtxt(folder / "ratings.csv.gz", dtype=np.int32, delimiter=",", skiprows=1)
    known_users, users = np.unique(columns[:, 1], return_inverse=True)
    # Ids of books are their lines in the table of books.
    n_items = int(columns[:, 0].max())
    pairs, place = np.unique(users * np.int64(n_items) + columns[:, 0] - 1, return_inverse=True)
    values = (np.bincount(place, columns[:, 2]) / np.bincount(place)).astype(np.float32)
    ratings = Ratings(
        (pairs // n_items).astype(np.int32), (pairs % n_items).astype(np.int32), values, len(known_users), n_items
    )
    is_held_out = np.random.default_rng(seed).random(len(pairs)) < 0.1
    return ratings.where(~is_held_out), ratings.where(is_held_out)


def play_counts(folder: Path) -> Ratings:
    """Read the play counts of HetRec 2011 Last.fm, as log(1 + plays): counts reach from 1 to 352,698."""
    columns = np.loadtxt(_existing(folder / "user_artists.dat"), dtype=np.int64, skiprows=1)
    known_users, users = np.unique(columns[:, 0], return_inverse=True)
    known_items, items = np.unique(columns[:, 1], return_inverse=True)
    values = np.log1p(columns[:, 2]).astype(np.float32)
    return Ratings(users.astype(np.int32), items.astype(np.int32), values, len(known_users), len(known_items))


def hold_out_two(ratings: Ratings, seed: int) -> tuple[Ratings, Ratings, Ratings]:
    """Hold out two random items of every user who has at least three.

    Returns
    -------
    training, validation, test : Ratings
        One item per user in each of the last two.
    """
    shuffled = np.random.default_rng(seed).permutation(len(ratings.users))
    order = shuffled[np.argsort(ratings.users[shuffled], kind="stable")]
    degrees = np.bincount(ratings.users, minlength=ratings.n_users)
    starts = np.cumsum(degrees) - degrees
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(starts, degrees)
    place[degrees[ratings.users] < 3] = 2
    return ratings.where(place > 1), ratings.where(place == 0), ratings.where(place == 1)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"{path} does not exist: get the data set from https://grouplens.org and pass --data FOLDER")
    return path
