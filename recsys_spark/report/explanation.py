"""Why a user gets an item, or does not: contributions, filters and position, from a stored run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.features import words_by_column
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from recsys_spark.kernels.contributions import Contributions, contributions
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.full_ranking import score_in_full
from recsys_spark.recommend import damped_vectors, popularity_damping
from recsys_spark.report.rated_user import History, RatedUser
from recsys_spark.report.stored_run import Items, StoredRun, as_utc
from recsys_spark.tables import (
    FEATURE_WEIGHTS,
    ITEM_ELIGIBILITY,
    ITEM_INDEX,
    ITEM_WORDS,
    POPULARITY,
    RECOMMENDATIONS,
    USER_SEGMENTS,
)
from recsys_spark.train import constant_of_rows, prepare_fixed, row_problem

SEEN, BLOCKED, UNRATED = "already rated", "blocked for the user", "rated by nobody, and so not popular"
_ITEMS_AT_ONCE = 1 << 15


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item has its score and its place.

    Attributes
    ----------
    item_id : str
    score : float
        A rating, a preference, a probability, or for users without a vector a popularity: as the table has it, unless
        marginal relevance tells its own values there.
    log_odds : float or None
        Of a probability: what the parts add up to.
    parts : dict of str to float
        What adds up to the score besides the history: ``mean``, ``item``, ``damping``, ``unobserved``,
        ``unsettled``; empty for a popularity.
    of_history : float64 array of shape (n,)
        What each rating of the history adds; 0 where it is no observation.
    position : int
        Among the items that the user may be recommended, by score; for one that is removed, the one it would have.
    listed_at : int or None
        Its position in the stored list.
    removed_by : list of str
        Filters that remove it for this user.
    removed_above : dict of str to list of str
        Items of higher scores that filters removed, by the first filter that did.
    of_features : dict of str to float
        Of a regression on features: what each of the item's features adds, by the user's weights, largest first (words
        of a text that share a hash add together); and what the score is without them, as ``""``. They add up to the
        score, or its log-odds, before damping.
    """

    item_id: str
    score: float
    log_odds: float | None
    parts: dict[str, float]
    of_history: Float64Array
    position: int
    listed_at: int | None
    removed_by: list[str]
    removed_above: dict[str, list[str]]
    of_features: dict[str, float]


@dataclass(frozen=True, slots=True)
class UserExplanation:
    """All that `why` tells of a user.

    Attributes
    ----------
    user_id : str
    source : str or None
        ``cf`` or ``fold_in``, whichever made the vector; None: there is none.
    segment : str or None
        Of a user without a vector, where the segment has a popularity of its own.
    history : History
    explanations : list of Explanation
        Of the item asked for, or of every item of the list.
    removed : dict of str to int
        How many of the model's items each filter removes for this user; an item may be removed by several.
    is_varied : bool
        Whether limits or marginal relevance stand between the scores and the list.
    """

    user_id: str
    source: str | None
    segment: str | None
    history: History
    explanations: list[Explanation]
    removed: dict[str, int]
    is_varied: bool


def explain_user(stored: StoredRun, user_id: str, item_id: str | None = None) -> UserExplanation:
    """Explain a user's list, or why one item stands where it does or not at all.

    Parameters
    ----------
    stored : StoredRun
    user_id : str
    item_id : str or None
        None: every item of the list.

    Returns
    -------
    UserExplanation
        The parts of a score add up to it, to rounding. Reads the item factors, whatever their number.

    Raises
    ------
    ContractError
        If the run has no list for the user, or the model does not know the item.
    """
    if stored.config.train.is_neighbourhood:
        raise ConfigError(
            "only the scores of factors and of regressions on features can be explained",
            where=f"{stored.run.path}: train.model",
            got=stored.config.train.model,
            allowed="factors, feature_regression",
        )
    entries = _listed(stored, user_id)
    items = stored.items()
    if item_id is not None:
        _require_item(stored, items, item_id)
    asked = [item_id] if item_id is not None else [entry["item_id"] for entry in entries]
    user = RatedUser.read(stored, user_id, items)
    removed = _removed(stored, user, items)
    is_open = ~np.any(list(removed.values()), axis=0) if removed else np.ones(len(items.labels), np.bool_)
    columns = items.columns(asked)
    if user.vector is not None:
        scores = _scores(stored, items, user.vector)
        parts: Contributions | None = _contributions(stored, items, user, columns)
        segment = None
    else:
        scores, segment = _popularity(stored, items, user_id, removed)
        parts = None
    placed = _Placed(items, scores, is_open, removed, {entry["item_id"]: entry["position"] for entry in entries})
    explanations = [_explain(stored, user, placed, int(column), parts, k) for k, column in enumerate(columns)]
    if stored.config.train.model == "feature_regression" and user.vector is not None:
        weights = stored.read(FEATURE_WEIGHTS, ("column", "feature", "weight")).sort_by("column")
        words = words_by_column(stored.rows(ITEM_WORDS, ("item_id", "words"), "item_id", asked))
        told = [
            _features_of(weights, user.vector, items, int(column), stored, words.get(item, {}))
            for item, column in zip(asked, columns, strict=True)
        ]
        explanations = [replace(one, of_features=found) for one, found in zip(explanations, told, strict=True)]
    counts = {reason: int(mask.sum()) for reason, mask in removed.items() if mask.any()}
    lists = stored.config.recommend
    is_varied = lists.max_per_category is not None or lists.mmr is not None or lists.max_new_items > 0
    return UserExplanation(user_id, user.source, segment, user.history, explanations, counts, is_varied)


@dataclass(frozen=True, slots=True)
class _Placed:
    """Every item's score and what removes it."""

    items: Items
    scores: Float32Array
    is_open: BoolArray
    removed: dict[str, BoolArray]
    listed: dict[str, int]


def _listed(stored: StoredRun, user_id: str) -> list[dict[str, Any]]:
    lists = stored.rows(RECOMMENDATIONS, ("user_id", "recommendations"), "user_id", [user_id])
    if not lists:
        raise ContractError(
            "the table has no such user",
            where=stored.run.table_path(RECOMMENDATIONS),
            got=repr(user_id),
            remedy="ids are compared exactly: check case, leading zeros and spaces",
        )
    entries: list[dict[str, Any]] = lists[0]["recommendations"]
    return entries


def _require_item(stored: StoredRun, items: Items, item_id: str) -> None:
    if items.column(item_id) is not None:
        return
    is_rated = bool(stored.rows(ITEM_INDEX, ("item_id",), "item_id", [item_id]))
    raise ContractError(
        "the model has no vector for the item: "
        + ("no rating of it was trained on" if is_rated else "nobody rated it"),
        where=stored.run.path,
        got=repr(item_id),
        remedy="it cannot be recommended by this run"
        if is_rated
        else "ids are compared exactly: check case, leading zeros and spaces",
    )


def _removed(stored: StoredRun, user: RatedUser, items: Items) -> dict[str, BoolArray]:
    """Return which items each filter removes for the user, bool arrays of shape (n_items,) by filter."""
    n_items = len(items.labels)
    masks: dict[str, BoolArray] = {}
    if stored.has(ITEM_ELIGIBILITY):
        table = stored.read(ITEM_ELIGIBILITY, ("item_id", "removed_by"))
        columns, reasons = items.columns(table["item_id"].to_pylist()), table["removed_by"].to_pylist()
        for reason in sorted({reason for reason in reasons if reason is not None}):
            places = [column for column, found in zip(columns, reasons, strict=True) if found == reason]
            masks[reason] = _mask(np.array(places, np.int64), n_items)
    if user.vector is None:
        masks[UNRATED] = items.n_ratings == 0
    masks[BLOCKED] = _mask(items.columns(user.blocked), n_items)
    masks[SEEN] = _mask(items.columns(_seen(stored, user.rated)), n_items)
    return masks


def _seen(stored: StoredRun, rated: list[dict[str, Any]]) -> list[str]:
    config = stored.config.recommend
    if not config.exclude_seen:
        return []
    if config.seen_since is None:
        return [row["item_id"] for row in rated]
    since = datetime.combine(config.seen_since, time(), UTC)
    return [row["item_id"] for row in rated if row["timestamp"] and as_utc(row["timestamp"]) >= since]


def _mask(columns: Int64Array, n_items: int) -> BoolArray:
    mask = np.zeros(n_items, np.bool_)
    mask[columns[columns >= 0]] = True
    return mask


def _scores(stored: StoredRun, items: Items, vector: Float32Array) -> Float32Array:
    """Score every item, as the lists do before any re-ranking: float32 (n_items,), log-odds for the logistic loss."""
    model = stored.record("train")
    vectors, biases = items.vectors, model["biases"]
    if stored.config.recommend.popularity_damping > 0:
        rank = vectors.shape[1] - biases
        bias = vectors[:, -1] if biases else np.zeros(len(vectors), np.float32)
        vectors = damped_vectors(vectors[:, :rank], bias, popularity_damping(items.n_ratings, stored.config.recommend))
        vector, biases = np.append(vector[:rank], vector[rank:] if biases else np.float32(0.0)), True
    starts = range(0, len(vectors), _ITEMS_AT_ONCE)
    parts = [vectors[first : first + _ITEMS_AT_ONCE] for first in starts]
    return np.concatenate([score_in_full(vector[None], part, model["global_mean"], biases)[0] for part in parts])


def _contributions(stored: StoredRun, items: Items, user: RatedUser, columns: Int64Array) -> Contributions:
    assert user.vector is not None
    config, model = stored.config.train, stored.record("train")
    problem = row_problem(config)
    constant = constant_of_rows(config, model["global_mean"])
    # New items are scored as the others, but no pair of them was part of the training.
    is_trained = items.n_ratings > 0
    trained = prepare_fixed(items.vectors, is_trained, constant, problem, rotated=False)
    fixed = replace(make_fixed_side(items.vectors, constant, model["biases"]), all_pairs=trained.all_pairs)
    row = build_csr_block(np.zeros(len(user.columns), np.int64), user.columns, user.values, user.weights)
    return contributions(row, fixed, problem, user.vector, columns)


def _popularity(
    stored: StoredRun, items: Items, user_id: str, removed: dict[str, BoolArray]
) -> tuple[Float32Array, str | None]:
    """Score every item by popularity, as the lists do for this user; return the user's segment too."""
    table = stored.read(POPULARITY, ("segment", "item_id", "popularity")) if stored.has(POPULARITY) else None
    named = stored.rows(USER_SEGMENTS, ("segment",), "user_id", [user_id])
    segment = named[0]["segment"] if named else None
    overall, own = (np.zeros(len(items.labels)) for _ in range(2))
    is_rated = np.zeros(len(items.labels), np.bool_)
    if table is not None:
        columns = items.columns(table["item_id"].to_pylist())
        segments, values = table["segment"].to_pylist(), table["popularity"].to_numpy()
        for name, scores in ((None, overall), (segment, own)):
            mine = np.array([found == name for found in segments], np.bool_) & (columns >= 0)
            scores[columns[mine]] = values[mine]
            is_rated = _mask(columns[mine], len(items.labels))
    # Lists are made from the items that may be recommended to somebody.
    is_candidate = ~np.any(
        [removed[name] for name in removed if name not in (SEEN, BLOCKED, UNRATED)] or [own < 0], axis=0
    )
    if segment is None or not (is_rated & is_candidate).any():
        return overall.astype(np.float32), None
    narrow = overall.astype(np.float32).astype(np.float64)
    total = narrow[is_candidate].sum()
    return (narrow / (total if total > 0 else 1.0) + own).astype(np.float32), segment


def _explain(
    stored: StoredRun, user: RatedUser, placed: _Placed, column: int, parts: Contributions | None, place: int
) -> Explanation:
    """Explain one item: column of the items, place among those that the contributions are of."""
    items, scores = placed.items, placed.scores
    score, item_id = float(scores[column]), items.labels[column].as_py()
    # Ties break by id, which is the order of the columns.
    is_better = (scores > scores[column]) | ((scores == scores[column]) & (np.arange(len(scores)) < column))
    above: dict[str, list[str]] = {}
    better = np.flatnonzero(is_better & ~placed.is_open)
    for k in better[np.argsort(-scores[better], kind="stable")]:
        reason = next(name for name, mask in placed.removed.items() if mask[k])
        above.setdefault(reason, []).append(items.labels[int(k)].as_py())
    log_odds = None
    if parts is not None and stored.config.train.loss == "logistic":
        log_odds, score = score, float(0.5 * (1.0 + np.tanh(0.5 * score)))
    of_history = np.zeros(len(user.history.item_ids))
    told: dict[str, float] = {}
    if parts is not None:
        # Histories are in the order of ids, and so are the columns by which a block's observations are sorted.
        of_history[user.history.is_fitted] = parts.observed[place]
        model = stored.record("train")
        told = {
            "mean": float(model["global_mean"]),
            "item": float(items.vectors[column, -1]) if model["biases"] else 0.0,
            "damping": -float(popularity_damping(items.n_ratings[[column]], stored.config.recommend)[0]),
            "unobserved": float(parts.unobserved[place]),
            "unsettled": float(parts.unsettled[place]),
        }
    return Explanation(
        item_id,
        score,
        log_odds,
        told,
        of_history,
        int((is_better & placed.is_open).sum()) + 1,
        placed.listed.get(item_id),
        [name for name, mask in placed.removed.items() if mask[column]],
        above,
        {},
    )


def _features_of(
    weights: pa.Table,
    vector: Float32Array,
    items: Items,
    column: int,
    stored: StoredRun,
    words: dict[int, list[str]],
) -> dict[str, float]:
    """Return what each feature of an item adds by the user's weights: the population's and the deviations.

    Hashes of words, named ``plot#17`` in the model, are told as the item's own words that have them: ``plot=war``.
    """
    features = items.vectors[column, :-1].astype(np.float64)
    population = weights["weight"].to_numpy()
    added = features * (population + vector[:-1])
    opinion, constant = float(items.vectors[column, -1]), float(stored.record("train")["global_mean"])
    found = {"": constant + opinion - float(features @ population) + float(vector[-1])}
    names = weights["feature"].to_pylist()
    for k, own in words.items():
        names[k] = f"{names[k].rpartition('#')[0]}={', '.join(own)}"
    return found | {names[k]: float(added[k]) for k in np.argsort(-added, kind="stable") if features[k] != 0}
