from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys_spark.publish.oracle import Agreement, OracleModel, compare_with_oracle

RNG = np.random.default_rng(0)
ITEMS = [f"i{k}" for k in range(30)]
FACTORS, BIASES = RNG.normal(size=(30, 4)).astype(np.float32), RNG.normal(size=30).astype(np.float32)


def model(*, as_probability: bool = False) -> OracleModel:
    return OracleModel(3.5, ITEMS, FACTORS.astype(np.float64), BIASES.astype(np.float64), as_probability)


def user(name: str, hidden: set[str], *, as_probability: bool = False) -> dict[str, Any]:
    """Return a user with the right list, found by a loop over single items in plain Python."""
    factors, bias = RNG.normal(size=4).astype(np.float32).tolist(), 0.25
    scores = {}
    for item, row, item_bias in zip(ITEMS, FACTORS.tolist(), BIASES.tolist(), strict=True):
        score = 3.5 + bias + item_bias + sum(x * y for x, y in zip(factors, row, strict=True))
        scores[item] = float(np.float32(1 / (1 + np.exp(-score)) if as_probability else score))
    best = sorted((item for item in ITEMS if item not in hidden), key=lambda item: (-scores[item], item))[:5]
    entries = [{"item_id": item, "score": scores[item]} for item in best]
    return {"user_id": name, "factors": factors, "bias": bias, "recommendations": entries}


@pytest.mark.parametrize("as_probability", [False, True])
def test_right_lists_agree(as_probability: bool) -> None:
    hidden = {"u0": {"i1", "i2"}, "u1": set(ITEMS[:27])}
    users = [user(f"u{k}", hidden.get(f"u{k}", set()), as_probability=as_probability) for k in range(6)]
    found = compare_with_oracle(model(as_probability=as_probability), users, hidden, 5)
    assert (found.users, found.entries, found.same_entries, found.disagreeing) == (6, 28, 28, [])
    assert 0 < found.largest_difference < 1e-6


def swap(entries: list[dict[str, Any]]) -> None:
    entries[0], entries[1] = entries[1], entries[0]


def shorten(entries: list[dict[str, Any]]) -> None:
    entries.pop()


def change_score(entries: list[dict[str, Any]]) -> None:
    entries[2]["score"] += 0.01


def skip_one(entries: list[dict[str, Any]]) -> None:
    del entries[1]
    entries.append({"item_id": "i29", "score": entries[-1]["score"]})


def turn_items(entries: list[dict[str, Any]]) -> None:
    """Leave scores as they are, beside other items: what a number that stands for another id does."""
    items = [entry["item_id"] for entry in entries]
    for entry, item in zip(entries, [*items[1:], items[0]], strict=True):
        entry["item_id"] = item


def name_another(entries: list[dict[str, Any]]) -> None:
    entries[0]["item_id"] = "unheard"


@pytest.mark.parametrize("damage", [swap, shorten, change_score, skip_one, turn_items, name_another])
def test_a_wrong_list_is_found(damage: Any) -> None:
    users = [user(f"u{k}", set()) for k in range(3)]
    damage(users[1]["recommendations"])
    assert compare_with_oracle(model(), users, {}, 5).disagreeing == ["u1"]


def test_an_item_that_should_be_hidden_is_found() -> None:
    found = compare_with_oracle(model(), [one := user("u", set())], {"u": {one["recommendations"][0]["item_id"]}}, 5)
    assert found.disagreeing == ["u"]


def test_items_that_tie_to_rounding_may_stand_in_any_order() -> None:
    same = OracleModel(0.0, ["a", "b"], np.ones((2, 1)), np.array([0.0, 1e-12]), as_probability=False)
    entries = [{"item_id": "a", "score": 1.0}, {"item_id": "b", "score": 1.0}]
    rows = [{"user_id": "u", "factors": [1.0], "bias": 0.0, "recommendations": entries}]
    assert compare_with_oracle(same, rows, {}, 2) == Agreement(1, 2, 0, pytest.approx(0.0, abs=1e-9), [])


def test_a_list_without_a_vector_is_not_confirmed() -> None:
    without = user("u", set()) | {"factors": None, "bias": None}
    assert compare_with_oracle(model(), [without], {}, 5).disagreeing == ["u"]


def test_nobody_to_compare_is_no_disagreement() -> None:
    assert compare_with_oracle(model(), [], {}, 5) == Agreement(0, 0, 0, 0.0, [])
