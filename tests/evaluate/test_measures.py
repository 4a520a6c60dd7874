"""Measures on Spark against scikit-learn, trec_eval and plain loops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import ir_measures
import numpy as np
import pyarrow as pa
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG
from pyspark.sql import DataFrame, SparkSession
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error

from recsys_spark.evaluate import exact_auc, rating_errors, shares
from recsys_spark.evaluate.estimates import Estimate, comparisons
from recsys_spark.evaluate.exposure import measure_exposure
from recsys_spark.evaluate.ranking import RankingInput, measure_ranking, padded_lists, relevant_items
from recsys_spark.evaluate.rating_errors import ErrorInput, measure_errors
from recsys_spark.evaluate.sampled import SampledInput, draw_negatives, measure_sampled
from recsys_spark.kernels.label_metrics import RankedLabels, area_under_roc

N_ITEMS, N_PAIRS = 12, 400
CLASSES = ("new items", "popular items", "middling items", "rare items")


@pytest.fixture(scope="module", autouse=True)
def small_shares() -> None:
    """Let a few hundred pairs be several shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "_PAIRS_PER_SHARE", 150)
        yield


def error_input(**changes: object) -> ErrorInput:
    given = {
        "predictors": ("model", "other"), "are_labels": False, "relevant": 4.0, "limits": (1.0, 5.0), "center": 3.0,
        "edges": np.linspace(1, 5, 11)[1:-1], "item_class": np.arange(N_ITEMS, dtype=np.int32) % 4,
        "class_names": CLASSES, "activity_bounds": (10, 50), "n_pairs": N_PAIRS, "replicates": 50, "seed": 0,
    }  # fmt: skip
    return ErrorInput(**{**given, **changes})


def pairs_with_predictions(labels: bool, n_pairs: int = N_PAIRS) -> dict[str, np.ndarray]:
    """Ten pairs per user in the mean."""
    rng = np.random.default_rng(3)
    chosen = rng.permutation(n_pairs // 10 * N_ITEMS)[:n_pairs].astype(np.int32)
    users, items = np.divmod(chosen, np.int32(N_ITEMS))
    ratings = rng.integers(0, 2, n_pairs) if labels else rng.integers(1, 6, n_pairs)
    noise = rng.normal(size=(2, n_pairs))
    predictions = (1 / (1 + np.exp(-noise))) if labels else np.round(ratings + 2 * noise, 1) + 0.03
    return {
        "user_index": users,
        "item_index": items,
        "rating": ratings.astype(np.float32),
        "n_known": (users * 2).astype(np.int32),
        "model": predictions[0],
        "other": predictions[1],
    }


def by_name(estimates: list[Estimate]) -> dict[tuple[str, str, str], Estimate]:
    found = {(e.model, e.metric, e.segment): e for e in estimates}
    assert len(found) == len(estimates)
    return found


def test_errors_of_ratings_are_scikit_learns_in_every_segment(spark: SparkSession) -> None:
    pairs = pairs_with_predictions(labels=False)
    frame = spark.createDataFrame(pa.table(pairs))
    errors = measure_errors(frame.repartition(3), error_input())
    found = by_name(errors.estimates)
    truth, is_one = pairs["rating"].astype(float), pairs["rating"] >= 4
    masks = {
        "all": np.ones(N_PAIRS, bool),
        "new users": pairs["n_known"] == 0,
        "users of 10 to 49 ratings": (pairs["n_known"] >= 10) & (pairs["n_known"] < 50),
        "rare items": pairs["item_index"] % 4 == 3,
    }
    for name in ("model", "other"):
        guess = np.clip(pairs[name], 1, 5)
        for segment, mask in masks.items():
            expected = {
                "rmse": root_mean_squared_error(truth[mask], guess[mask]),
                "mae": mean_absolute_error(truth[mask], guess[mask]),
                "r2": r2_score(truth[mask], guess[mask]),
            }
            for metric, value in expected.items():
                assert found[name, metric, segment].value == pytest.approx(value, rel=1e-9), (metric, segment)
                assert found[name, metric, segment].n == mask.sum()
        check_pooled_auc(found, name, pairs, is_one)
        per_user = mean_user_auc(pairs, pairs[name], is_one)
        assert found[name, "auc_per_user", "all"].value == pytest.approx(per_user, rel=1e-12)
        assert per_user != pytest.approx(mean_user_auc(pairs, guess, is_one), rel=1e-4), "of scores, not of cut ones"
    distance = check_calibration(errors.calibration, np.clip(pairs["model"], 1, 5), truth)
    error = found["model", "calibration_error", "all"]
    assert error.value == pytest.approx(distance)
    assert error.row()[4] < error.row()[5], "an interval over users"
    again = measure_errors(frame.repartition(5, "item_index"), error_input())
    for one, other in zip(errors.estimates, again.estimates, strict=True):
        np.testing.assert_array_equal(one.values, other.values, "not the same for other partitions")


def check_pooled_auc(
    found: dict[tuple[str, str, str], Estimate], name: str, pairs: dict[str, np.ndarray], is_one: np.ndarray
) -> None:
    """Compare the AUC over the pairs of all users, and of each bucket of their activity, with scikit-learn's."""
    n_known = pairs["n_known"]
    buckets = {
        "all": n_known >= 0,
        "new users": n_known == 0,
        "users of 1 to 9 ratings": (n_known >= 1) & (n_known < 10),
        "users of 10 to 49 ratings": (n_known >= 10) & (n_known < 50),
        "users of 50 or more ratings": n_known >= 50,
    }
    assert {segment for model, metric, segment in found if (model, metric) == (name, "auc")} == set(buckets)
    for segment, mask in buckets.items():
        expected = roc_auc_score(is_one[mask], pairs[name][mask])
        assert found[name, "auc", segment].value == pytest.approx(expected, rel=1e-12), segment
        assert found[name, "auc", segment].n == mask.sum()


def mean_user_auc(pairs: dict[str, np.ndarray], guess: np.ndarray, is_one: np.ndarray) -> float:
    areas = []
    for user in np.unique(pairs["user_index"]):
        mine = pairs["user_index"] == user
        if 0 < is_one[mine].sum() < mine.sum():
            areas.append(roc_auc_score(is_one[mine], guess[mine]))
    return float(np.mean(areas))


def check_calibration(found: list[dict[str, float]], guess: np.ndarray, truth: np.ndarray) -> float:
    """Compare the bins with loops; return the calibration error."""
    bins = np.minimum(((guess - 1) / 0.4 + 1e-9).astype(int), 9)
    expected = [(int((bins == b).sum()), guess[bins == b].mean(), truth[bins == b].mean()) for b in np.unique(bins)]
    assert [(part["n"], part["predicted"], part["actual"]) for part in found] == [
        (n, pytest.approx(predicted), pytest.approx(actual)) for n, predicted, actual in expected
    ]
    return sum(n * abs(predicted - actual) for n, predicted, actual in expected) / len(guess)


def test_errors_of_labels_are_scikit_learns(spark: SparkSession) -> None:
    pairs = pairs_with_predictions(labels=True)
    given = error_input(are_labels=True, relevant=None, limits=None, edges=np.linspace(0, 1, 11)[1:-1])
    found = by_name(measure_errors(spark.createDataFrame(pa.table(pairs)), given).estimates)
    labels = pairs["rating"].astype(float)
    for name in ("model", "other"):
        assert found[name, "log_loss", "all"].value == pytest.approx(log_loss(labels, pairs[name]), rel=1e-9)
        check_pooled_auc(found, name, pairs, labels > 0)
    assert not [key for key in found if key[1] in ("rmse", "r2", "mae")]


@contextmanager
def brought_to_the_driver(frame: DataFrame) -> Iterator[list[int]]:
    """Note the number of rows of everything that is collected meanwhile."""
    kind, rows = type(frame), []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(kind, name)

        def collect(self: DataFrame, *arguments: Any, **named: Any) -> Any:
            found = real(self, *arguments, **named)
            rows.append(len(found))
            return found

        return collect

    def refuse(self: DataFrame, *arguments: Any, **named: Any) -> None:
        raise AssertionError("not counted")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("collect", "toArrow", "toPandas"):
            patch.setattr(kind, name, counted(name))
        patch.setattr(kind, "toLocalIterator", refuse)
        yield rows


def test_what_reaches_the_driver_does_not_grow_with_pairs_and_users(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds that know of shares, models and segments alone: ten million pairs bring as little."""
    monkeypatch.setattr(shares, "_MOST_SHARES", 2)
    n_pairs, given = 5_000, error_input(n_pairs=5_000)
    scored = spark.createDataFrame(pa.table(pairs_with_predictions(labels=False, n_pairs=n_pairs)))
    with brought_to_the_driver(scored) as rows:
        assert measure_errors(scored, given).estimates
    n_kinds, n_segments = len(given.predictors), len(rating_errors.segment_names(given))
    n_buckets = 1 + len(shares.group_names(given.activity_bounds))
    placements, sums, ranges = 2, 2 * (n_kinds * n_segments + 1), 2 * n_kinds * n_kinds * n_buckets
    assert sum(rows) <= placements + sums + ranges < 100

    n_users, of_lists = 500, ranking_input()
    lists = {kind: list_frame(spark, lists_of_users(n, n_users, 5)) for n, kind in enumerate(of_lists.kinds)}
    relevant = spark.range(n_users).selectExpr("int(id) user_index", "array(int(id % 12)) relevant", "int(id) n_known")
    with brought_to_the_driver(relevant) as rows:
        measure_ranking(lists, relevant, of_lists)
        measure_exposure(lists, 3, N_ITEMS)
    n_groups = len(shares.group_names(of_lists.activity_bounds))
    placements, sums, times_listed = of_lists.n_shares, of_lists.n_shares * 2 * n_groups, 2 * N_ITEMS
    assert sum(rows) <= placements + sums + times_listed < 60


def test_a_range_of_scores_is_ranked_by_kind_and_by_activity() -> None:
    rng = np.random.default_rng(8)
    kinds, scores = rng.integers(0, 3, 120), np.round(rng.normal(size=120), 1)
    is_one, n_known = rng.random(120) < 0.4, rng.integers(0, 4, 120)
    columns = {
        "kind": pa.array(kinds, pa.int32()), "score": scores, "is_one": is_one, "n_known": pa.array(n_known, pa.int32())
    }  # fmt: skip
    (found,) = exact_auc.rank_range(iter([pa.RecordBatch.from_pydict(columns)]), activity_bounds=(2,))
    rows = found.to_pylist()
    assert [(row["kind"], row["segment"]) for row in rows] == [(k, s) for k in range(3) for s in range(4)]
    in_segment = [n_known >= 0, n_known == 0, n_known == 1, n_known >= 2]
    for row in rows:
        mine = (kinds == row.pop("kind")) & in_segment[row.pop("segment")]
        area = area_under_roc([RankedLabels(**row)])
        assert area == pytest.approx(roc_auc_score(is_one[mine], scores[mine]), rel=1e-12)


def test_nothing_held_out_gives_no_errors(spark: SparkSession) -> None:
    empty = spark.createDataFrame(pa.table(pairs_with_predictions(labels=False))).limit(0)
    assert measure_errors(empty, error_input(n_pairs=0)) == rating_errors.Errors([], [])


def lists_of_users(seed: int, n_users: int, n: int) -> dict[int, list[int]]:
    rng = np.random.default_rng(seed)
    lists = {u: rng.permutation(N_ITEMS)[: rng.integers(1, n + 1)].tolist() for u in range(n_users)}
    del lists[4]
    return lists


def list_frame(spark: SparkSession, lists: dict[int, list[int]]) -> DataFrame:
    return spark.createDataFrame(list(lists.items()), "user_index int, items array<int>")


def ranking_input(vectors: np.ndarray | None = None) -> RankingInput:
    return RankingInput(
        kinds=("model", "popularity"), lengths=(1, 3, 5), n=3, n_ratings=np.arange(N_ITEMS), n_users=16,
        item_class=np.arange(N_ITEMS, dtype=np.int32) % 4, class_names=CLASSES, item_vectors=vectors,
        activity_bounds=(10, 50), replicates=50, seed=0, n_shares=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranked(spark: SparkSession):
    """Lists of two kinds, held-out items, and what was measured."""
    lists = {"model": lists_of_users(0, 30, 5), "popularity": lists_of_users(1, 30, 5)}
    rng = np.random.default_rng(2)
    relevant = {u: sorted(rng.permutation(N_ITEMS)[: rng.integers(1, 5)].tolist()) for u in range(2, 32)}
    rows = [(u, items, 5 * (u % 5)) for u, items in relevant.items()]
    frame = spark.createDataFrame(rows, "user_index int, relevant array<int>, n_known int")
    vectors = rng.normal(size=(N_ITEMS, 4)).astype(np.float32)
    frames = {name: list_frame(spark, own) for name, own in lists.items()}
    estimates = measure_ranking(frames, frame.repartition(4), ranking_input(vectors))
    return lists, relevant, vectors, by_name(estimates), (frames, frame)


def test_rankings_are_trec_evals(ranked) -> None:
    lists, relevant, _, found, _ = ranked
    measures = {"ndcg": nDCG, "recall": R, "precision": P, "hit_rate": Success, "map": AP, "mrr": RR}
    judged = {str(u): {str(i): 1 for i in items} for u, items in relevant.items()}
    for kind, own in lists.items():
        run = {str(u): {str(i): 9.0 - p for p, i in enumerate(items)} for u, items in own.items()}
        expected = ir_measures.calc_aggregate([measures[m] @ n for m in measures for n in (1, 3, 5)], judged, run)
        for metric, measure in measures.items():
            for n in (1, 3, 5):
                estimate = found[kind, f"{metric}@{n}", "all"]
                assert estimate.n == len(relevant)
                assert estimate.value == pytest.approx(expected[measure @ n], abs=1e-9), (kind, metric, n)


def test_segments_are_those_users_and_items_alone(ranked) -> None:
    lists, relevant, _, found, _ = ranked
    few = {u: items for u, items in relevant.items() if 0 < 5 * (u % 5) < 10}
    recalls = [len({*lists["model"].get(u, [])[:3]} & {*items}) / len(items) for u, items in few.items()]
    assert found["model", "recall@3", "users of 1 to 9 ratings"].value == pytest.approx(np.mean(recalls))
    assert found["model", "recall@3", "users of 1 to 9 ratings"].n == len(few)
    rare = {u: [i for i in items if i % 4 == 3] for u, items in relevant.items()}
    recalls = [len({*lists["model"].get(u, [])[:3]} & {*items}) / len(items) for u, items in rare.items() if items]
    assert found["model", "recall@3", "rare items"].value == pytest.approx(np.mean(recalls))


def slow_agreement(a: list[int], b: list[int], p: float = 0.9) -> float:
    """Return rank-biased overlap by its definition: agreement by depth, taken on for ever as it is in the end.

    Behind the end of the shorter list, its agreement is taken to go on (Webber, Moffat, Zobel 2010, section 4.3).
    """
    short, long = sorted((a, b), key=len)
    if not short:
        return float(not long)

    def agreement(depth: int) -> float:
        depth = min(depth, len(long))
        seen = len({*short[:depth]} & {*long[:depth]})
        return (seen + len({*short} & {*long[: len(short)]}) / len(short) * max(depth - len(short), 0)) / depth

    return (1 - p) * sum(p ** (depth - 1) * agreement(depth) for depth in range(1, 400))


def test_variety_equals_loops(ranked, spark: SparkSession) -> None:
    lists, relevant, vectors, found, (frames, _) = ranked
    mine = [lists["model"][u][:3] for u in relevant if u in lists["model"]]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    diversity = [np.mean([1 - unit[a] @ unit[b] for a, b in combinations(own, 2)]) for own in mine if len(own) > 1]
    assert found["model", "diversity@3", "all"].value == pytest.approx(np.mean(diversity), rel=1e-6)
    assert found["model", "popularity@3", "all"].value == pytest.approx(np.mean([np.mean(own) for own in mine]))
    novelty = [np.mean([math.log2(16 / max(i, 1)) for i in own]) for own in mine]
    assert found["model", "novelty@3", "all"].value == pytest.approx(np.mean(novelty))
    overlaps = [
        len({*lists["model"].get(u, [])[:3]} & {*lists["popularity"][u][:3]}) / len(lists["popularity"][u][:3])
        for u in relevant
        if u in lists["popularity"]
    ]
    assert found["popularity", "overlap_with_model@3", "all"].value == pytest.approx(np.mean(overlaps))
    agreements = [
        slow_agreement(lists["popularity"][u][:3], lists["model"].get(u, [])[:3])
        for u in relevant
        if u in lists["popularity"]
    ]
    name = "rank_biased_overlap_with_model@3"
    assert found["popularity", name, "all"].value == pytest.approx(np.mean(agreements))
    assert found["model", name, "all"].value == pytest.approx(1.0)
    places = [np.mean([i % 4 == 3 for i in own]) for own in mine]
    assert found["model", "places@3", "rare items"].value == pytest.approx(np.mean(places))
    exposure = by_name(measure_exposure(frames, 3, N_ITEMS))
    times = Counter(item for own in lists["model"].values() for item in own[:3])
    assert exposure["model", "coverage@3", "all"].value == len(times) / N_ITEMS
    counts = [times[item] for item in range(N_ITEMS)]
    differences = sum(abs(a - b) for a in counts for b in counts)
    assert exposure["model", "gini@3", "all"].value == pytest.approx(differences / (2 * N_ITEMS * sum(counts)))


def test_intervals_are_around_their_values_and_the_same_for_other_partitions(ranked) -> None:
    _, _, vectors, found, (frames, relevant) = ranked
    row = found["model", "ndcg@3", "all"].row()
    assert row[4] < row[3] < row[5]
    shuffled = {name: frame.repartition(5, "user_index") for name, frame in frames.items()}
    again = by_name(measure_ranking(shuffled, relevant.coalesce(1), ranking_input(vectors)))
    assert again.keys() == found.keys()
    for key, estimate in found.items():
        np.testing.assert_array_equal(again[key].values, estimate.values)


def test_a_model_is_told_from_a_baseline_only_where_the_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    noise = np.concatenate([[0.0], rng.normal(size=200)])
    estimates = [
        Estimate("model", "ndcg@10", 0.5 + 0.1 * noise, 9),
        Estimate("near", "ndcg@10", 0.4 + 0.1 * noise, 9),
        Estimate("far", "ndcg@10", 0.45 - 0.1 * noise, 9),
        Estimate("above", "ndcg@10", 0.9 + 0.1 * noise, 9),
        Estimate("model", "rmse", np.array([1.0]), 9),
        Estimate("mean", "rmse", np.array([1.5]), 9),
    ]
    verdicts = {row["baseline"]: row["verdict"] for row in comparisons(estimates, "model", "ndcg@10")}
    # The noise of "near" is the model's own: what they have in common cancels out, replicate by replicate.
    assert verdicts == {"near": "better", "far": "not told apart", "above": "worse"}
    (only,) = comparisons(estimates, "model", "rmse")
    assert (only["verdict"], only["advantage"], only["low"]) == ("better", 0.5, None)
    assert comparisons(estimates, "nobody", "rmse") == []


def sampled_input(**changes: object) -> SampledInput:
    rng = np.random.default_rng(4)
    given = {
        "kinds": ("model", "popularity"), "item_index": np.arange(N_ITEMS, dtype=np.int32),
        "vectors": rng.normal(size=(N_ITEMS, 3)).astype(np.float32), "popularity": np.arange(N_ITEMS) // 2 * 1.0,
        "global_mean": 0.5, "biases": True, "n_negatives": 4, "n": 2, "replicates": 10, "seed": 0, "n_shares": 2,
    }  # fmt: skip
    return SampledInput(**{**given, **changes})


def test_the_sampled_protocol_equals_a_loop(spark: SparkSession) -> None:
    rng = np.random.default_rng(5)
    given, rows, expected = sampled_input(), [], defaultdict(list)
    for user in range(12):
        vector = rng.normal(size=3).astype(np.float32)
        order = rng.permutation(N_ITEMS).tolist()
        relevant, hidden = sorted(order[:2]), order[2:5]
        rows.append((user, vector[:2].tolist(), float(vector[2]), hidden, relevant))
        drawn = draw_negatives(user, np.int32(relevant + hidden), given)
        assert len({*drawn.tolist()}) == 4
        assert not {*drawn.tolist()} & {*relevant, *hidden}
        scores = {
            "model": given.vectors[:, :2].astype(float) @ vector[:2].astype(float) + given.vectors[:, 2] + vector[2],
            "popularity": given.popularity,
        }
        for kind, values in scores.items():
            expected[kind] += [1 + sum(values[j] >= values[i] for j in drawn) for i in relevant]
    schema = "user_index int, factors array<float>, bias float, hidden array<int>, relevant array<int>"
    found = by_name(measure_sampled(spark.createDataFrame(rows, schema).repartition(3), given))
    for kind, places in expected.items():
        hits = [place <= 2 for place in places]
        gains = [1 / math.log2(place + 1) if place <= 2 else 0.0 for place in places]
        assert found[kind, "sampled_4_hit_rate@2", "all"].value == pytest.approx(np.mean(hits))
        assert found[kind, "sampled_4_ndcg@2", "all"].value == pytest.approx(np.mean(gains))
        assert found[kind, "sampled_4_ndcg@2", "all"].n == 24


def test_a_small_catalogue_has_too_few_items_to_draw() -> None:
    drawn = draw_negatives(7, np.arange(9, dtype=np.int32), sampled_input())
    assert sorted(drawn.tolist()) == [-1, 9, 10, 11]


def test_lists_are_cut_and_padded() -> None:
    lists = pa.array([[1, 2, 3], None, [4], []], pa.list_(pa.int32()))
    np.testing.assert_array_equal(padded_lists(lists, 2), [[1, 2], [-1, -1], [4, -1], [-1, -1]])
    np.testing.assert_array_equal(padded_lists(lists.slice(1, 2), 2), [[-1, -1], [4, -1]])


def test_relevant_items_are_those_rated_high_enough(spark: SparkSession) -> None:
    rows = [(0, 0, 4.0), (0, 1, 2.0), (1, 0, 5.0), (1, 2, 1.0), (2, 1, 3.0)]
    held_out = spark.createDataFrame(rows, "user_index int, item_index int, rating float")
    found = {r["user_index"]: r["relevant"] for r in relevant_items(held_out, 3.0).collect()}
    assert found == {0: [0], 1: [0], 2: [1]}
    assert relevant_items(held_out, None).count() == 3


def test_item_classes_share_the_ratings_and_groups_are_named_by_their_bounds() -> None:
    classes, names = shares.item_classes(np.int32([0, 5, 40, 5, 30, 10, 10]))
    assert names == list(CLASSES)
    assert classes.tolist() == [0, 3, 1, 3, 2, 3, 3]
    assert shares.groups_of(np.array([0, 1, 9, 10, 49, 50, 999]), (10, 50)).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert shares.group_names((10,)) == ["new users", "users of 1 to 9 ratings", "users of 10 or more ratings"]
