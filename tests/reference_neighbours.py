"""Neighbourhood models by the textbook: dictionaries, plain loops, one pair after the other."""

from __future__ import annotations

import numpy as np

from tests.kernels.test_neighbours import of_two_rows

Ratings = list[tuple[int, int, float]]


def predictions(
    ratings: Ratings, n_users: int, n_items: int, model: str, *, similarity: str, k: int, shrink: float, prior: float
) -> np.ndarray:
    """Predict every pair: float64 array (n_users, n_items)."""
    if model == "item_knn":
        turned = [(item, user, rating) for user, item, rating in ratings]
        return _of_similar_rows(turned, n_items, n_users, similarity, k, shrink, prior).T
    return _of_similar_rows(ratings, n_users, n_items, similarity, k, shrink, prior)


def _of_similar_rows(
    ratings: Ratings, n_rows: int, n_columns: int, similarity: str, k: int, shrink: float, prior: float
) -> np.ndarray:
    rows: list[dict[int, float]] = [{} for _ in range(n_rows)]
    for row, column, rating in ratings:
        rows[row][column] = float(np.float32(rating))
    mean = sum(value for mine in rows for value in mine.values()) / len(ratings)
    # Single precision where the tables have it.
    means = [mean + float(np.float32(sum(mine.values()) / len(mine) - mean)) if mine else mean for mine in rows]
    deviations = [
        {column: float(np.float32(value - means[row])) for column, value in mine.items()}
        for row, mine in enumerate(rows)
    ]
    n_known = len({column for _, column, _ in ratings})
    found = np.zeros((n_rows, n_columns))
    for row in range(n_rows):
        similar = []
        for other in range(n_rows):
            common = len(rows[row].keys() & rows[other].keys())
            if other != row and common:
                compared = rows if similarity == "cosine" else deviations
                name = "rating_cosine" if similarity == "cosine" else "pearson"
                value = of_two_rows(name, compared[row], compared[other], n_known) * common / (common + shrink)
                similar.append((-float(np.float32(value)), other))
        nearest = [(-value, other) for value, other in sorted(similar) if value < 0][:k]
        for column in range(n_columns):
            agreeing = [(value, deviations[other][column]) for value, other in nearest if column in deviations[other]]
            below = sum(value for value, _ in agreeing)
            above = sum(value * deviation for value, deviation in agreeing)
            found[row, column] = means[row] + (above / (below + prior) if agreeing else 0.0)
    return found
