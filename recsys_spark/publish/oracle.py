"""Lists of a few users once more, by brute force in double precision: an independent check on every night's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Float64Array

# Scores are published in single precision: what differs by less than this share of the largest score is the same.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the published lists are those of a brute force.

    Attributes
    ----------
    users : int
        Whose lists were compared.
    entries, same_entries : int
        Of their lists; those at which both have the same item.
    largest_difference : float
        Of the score of an entry, relative to the largest score.
    disagreeing : list of str
        Users with an entry whose score is not that of its item, or not that of the same place of the brute force, to
        rounding.
    """

    users: int
    entries: int
    same_entries: int
    largest_difference: float
    disagreeing: list[str]


@dataclass(frozen=True, slots=True)
class OracleModel:
    """The published factors in double precision.

    Attributes
    ----------
    global_mean : float
    item_ids : sequence of str
        Of the items that may be recommended and have factors.
    item_factors : float64 array of shape (n_items, rank)
    item_biases : float64 array of shape (n_items,)
    as_probability : bool
        Whether scores go through the logistic function.
    """

    global_mean: float
    item_ids: Sequence[str]
    item_factors: Float64Array
    item_biases: Float64Array
    as_probability: bool

    def scores(self, factors: Sequence[float], bias: float) -> dict[str, float]:
        """Return one user's score of every item."""
        scores = self.global_mean + bias + self.item_biases + self.item_factors @ np.asarray(factors, np.float64)
        if self.as_probability:
            scores = 1 / (1 + np.exp(-scores))
        return dict(zip(self.item_ids, scores.tolist(), strict=True))

    def best(self, scores: Mapping[str, float], hidden: set[str], n: int) -> list[tuple[str, float]]:
        """Return the best items of one user, by score and then id, looking at every item."""
        ranked = sorted((-score, item) for item, score in scores.items() if item not in hidden)
        return [(item, -score) for score, item in ranked[:n]]


def compare_with_oracle(
    model: OracleModel,
    users: Sequence[Mapping[str, Any]],
    hidden: Mapping[str, set[str]],
    n: int,
) -> Agreement:
    """Compute the lists of some users again and compare.

    Parameters
    ----------
    model : OracleModel
    users : sequence of mapping
        ``user_id, factors, bias, recommendations``; without factors, the list cannot be confirmed.
    hidden : mapping
        User to the items that must not be listed.
    n : int
        Entries per list.

    Returns
    -------
    Agreement
        Ties to rounding may stand in any order. Cost: every score of every one of these users.
    """
    entries = same = 0
    largest, disagreeing = 0.0, []
    for user in users:
        if user["factors"] is None:
            # A list that says it comes from a vector, and there is none.
            disagreeing.append(user["user_id"])
            continue
        scores = model.scores(user["factors"], user["bias"])
        expected = model.best(scores, hidden.get(user["user_id"], set()), n)
        listed = [(entry["item_id"], entry["score"]) for entry in user["recommendations"]]
        entries += len(listed)
        same += sum(a[0] == b[0] for a, b in zip(listed, expected, strict=False))
        scale = max((abs(score) for _, score in expected), default=1.0) or 1.0
        differences = [abs(a[1] - b[1]) / scale for a, b in zip(listed, expected, strict=False)]
        # Right scores in the right order may stand beside other items. One that is not known differs by all there is.
        differences += [abs(score - scores[item]) / scale if item in scores else 1.0 for item, score in listed]
        largest = max([largest, *differences])
        if len(listed) != len(expected) or max(differences, default=0.0) > _ROUNDING:
            disagreeing.append(user["user_id"])
    return Agreement(len(users), entries, same, largest, disagreeing)
