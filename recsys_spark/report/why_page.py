"""What `why` prints: the parts of a score, the position, and what filters removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from recsys_spark.report.explanation import Explanation, UserExplanation

_STRONGEST = 3
_EXAMPLES = 3
_VECTORS = {"cf": "a vector from training", "fold_in": "folded in from ratings that training has not seen"}


def print_why(console: Console, explained: UserExplanation, titles: dict[str, str], *, in_full: bool) -> None:
    """Print an explanation.

    Parameters
    ----------
    console : Console
    explained : UserExplanation
    titles : dict
        By item; an item without one is shown by its id.
    in_full : bool
        Whether every part of the score is shown, for one item; else each item of a list with the ratings that speak
        most for it.
    """
    n_fitted = int(explained.history.is_fitted.sum())
    console.print(
        f"user {escape(explained.user_id)}: {len(explained.history.item_ids)} ratings, {_made_by(explained)}"
        + (f", which takes {n_fitted} of them" if 0 < n_fitted < len(explained.history.item_ids) else ""),
        highlight=False,
    )
    for one in explained.explanations:
        if in_full:
            _print_in_full(console, explained, one, titles)
    if not in_full:
        console.print(_list_grid(explained, titles))
    removed = ", ".join(f"{count:,} {_words(reason)}" for reason, count in explained.removed.items())
    console.print(f"kept out for this user: {removed or 'nothing'}", highlight=False)


def _made_by(explained: UserExplanation) -> str:
    if explained.source is not None:
        return _VECTORS[explained.source]
    place = f"in segment {explained.segment!r}" if explained.segment is not None else "overall"
    return escape(f"no vector: the list is what is popular {place}")


def _list_grid(explained: UserExplanation, titles: dict[str, str]) -> Grid:
    grid = Grid(title="gets", title_justify="left", show_edge=False, pad_edge=False)
    grid.add_column("", justify="right")
    grid.add_column("score", justify="right")
    grid.add_column("item", ratio=1, overflow="fold")
    grid.add_column("for", ratio=2, overflow="fold")
    for one in explained.explanations:
        because = [f"{added:+.3f} {name}" for name, added in _strongest(explained, one, titles) if added > 0]
        grid.add_row(
            str(one.listed_at or one.position),
            f"{one.score:.3f}",
            escape(_name(one.item_id, titles)),
            escape("; ".join(because)),
        )
    return grid


def _strongest(explained: UserExplanation, one: Explanation, titles: dict[str, str]) -> list[tuple[str, float]]:
    """Return what speaks most for an item: its features where the model knows them, or else ratings of the history."""
    features = [(name, added) for name, added in one.of_features.items() if name]
    if one.of_features:
        return features[:_STRONGEST]
    order = np.argsort(-one.of_history, kind="stable")[:_STRONGEST]
    return [(_name(explained.history.item_ids[k], titles), float(one.of_history[k])) for k in order]


def _print_in_full(console: Console, explained: UserExplanation, one: Explanation, titles: dict[str, str]) -> None:
    console.print(f"item {escape(one.item_id)}: {escape(_name(one.item_id, titles))}", highlight=False)
    if one.parts:
        console.print(_parts_grid(explained, one, titles))
        if one.of_features:
            console.print(_features_grid(one))
    else:
        console.print(f"score {one.score:.4f}: its popularity", highlight=False)
    console.print(_place(one, is_varied=explained.is_varied), highlight=False)
    for reason, item_ids in one.removed_above.items():
        shown = "; ".join(_name(item_id, titles) for item_id in item_ids[:_EXAMPLES])
        more = f"; and {len(item_ids) - _EXAMPLES} more" if len(item_ids) > _EXAMPLES else ""
        console.print(escape(f"above it, but {_words(reason)}: {len(item_ids)} ({shown}{more})"), highlight=False)


def _place(one: Explanation, *, is_varied: bool) -> str:
    if one.removed_by:
        reasons = " and ".join(map(_words, one.removed_by))
        return f"not listed: {reasons}; by its score it would stand at position {one.position:,}"
    if one.listed_at is not None:
        return f"position {one.listed_at:,} of the list"
    what = "after limits and re-ranking" if is_varied else "behind the end of the list"
    return f"not listed: by its score it stands at position {one.position:,}, {what}"


def _parts_grid(explained: UserExplanation, one: Explanation, titles: dict[str, str]) -> Grid:
    grid = Grid(show_edge=False, pad_edge=False, show_header=False)
    grid.add_column("adds", justify="right")
    grid.add_column("what", overflow="fold")
    grid.add_row(f"{one.parts['mean']:+.4f}", "mean of all")
    grid.add_row(f"{one.parts['item']:+.4f}", "the item itself, whoever it is for")
    if one.parts["damping"]:
        grid.add_row(f"{one.parts['damping']:+.4f}", "damping, for it is popular")
    history = explained.history
    for k in np.argsort(-one.of_history, kind="stable"):
        if history.is_fitted[k]:
            name = _name(history.item_ids[k], titles)
            grid.add_row(f"{one.of_history[k]:+.4f}", escape(f"rated {history.ratings[k]:g}: {name}"))
    grid.add_row(f"{one.parts['unobserved']:+.4f}", "what was not rated")
    grid.add_row(f"{one.parts['unsettled']:+.4f}", "left over by training: the vector is not quite settled")
    if one.log_odds is None:
        grid.add_row(f"{one.score:.4f}", "score")
    else:
        grid.add_row(f"{one.log_odds:.4f}", f"log-odds, a probability of {one.score:.4f}")
    return grid


def _features_grid(one: Explanation) -> Grid:
    grid = Grid(title="the same score by features", title_justify="left", show_edge=False, pad_edge=False)
    grid.add_column("adds", justify="right")
    grid.add_column("feature", overflow="fold")
    for name, added in one.of_features.items():
        grid.add_row(f"{added:+.4f}", escape(name) if name else "without any of them, for this user")
    return grid


def _name(item_id: str, titles: dict[str, str]) -> str:
    return titles.get(item_id) or item_id


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def shown_ids(explained: UserExplanation) -> Sequence[str]:
    """Return the ids of all items that are named on the page."""
    above = [k for one in explained.explanations for found in one.removed_above.values() for k in found[:_EXAMPLES]]
    return [*explained.history.item_ids, *(one.item_id for one in explained.explanations), *above]
