"""The lists that are measured: the model's as users would get them, by score alone, and the baselines'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.baselines import ITEM_KNN, POPULARITY, POPULARITY_RECENT, ItemTotals
from recsys_spark.evaluate.estimates import Estimate
from recsys_spark.evaluate.exposure import measure_exposure
from recsys_spark.evaluate.held_out_ratings import HeldOutRatings
from recsys_spark.evaluate.measured_models import candidates_of
from recsys_spark.evaluate.ranking import RankingInput, measure_ranking, relevant_items
from recsys_spark.evaluate.sampled import SampledInput, measure_sampled
from recsys_spark.evaluate.shares import item_classes, number_of_shares
from recsys_spark.evaluate.splits import FOLD_IN, HELD_OUT, TRAINING
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.recommend import Candidates, read_categories, users_with_history, with_variety, write_lists
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.train import Factorization

MODEL, BY_SCORE_ALONE = "model", "by_score_alone"


def measure_lists(
    context: StageContext,
    parts: HeldOutRatings,
    model: Factorization,
    totals: ItemTotals,
    item_knn: Factorization | None = None,
) -> list[Estimate]:
    """Measure the lists as users get them, beside those by score alone where these differ, and the baselines'.

    Limits per category, marginal relevance and damping act as in the recommend stage. Deny and allow lists, blocks
    and the days of sale do not: they are about today, and the held-out ratings about the past. Ratings that are known
    are always left out, for none of them is held out.

    Parameters
    ----------
    context : StageContext
    parts : HeldOutRatings
    model : Factorization
    totals : ItemTotals
        Of the training part.
    item_knn : Factorization or None
        The baseline of that name, where it is wished for.

    Returns
    -------
    list of Estimate
        Empty where no held-out rating counts as a hit.

    Notes
    -----
    The joins of ``users_with_history`` once for all kinds, and once more for item_knn; one job per kind; then one
    shuffle of all lists. Histories are held on the executors' memory and disks meanwhile; lists go through files of the
    run, which are removed.
    """
    config = context.config.evaluate
    relevant = relevant_items(parts.held_out, context.config.relevant_rating)
    relevant = relevant.join(parts.known_counts(), "user_index", "left").fillna(0, ["n_known"]).persist()
    folder = join(context.run.path, "_evaluated_lists")
    try:
        if relevant.isEmpty():
            return []
        context.storage.remove(folder)
        by_score = candidates_of(model)
        kinds = _kinds(context, by_score, totals)
        lists = _write_kinds(context, parts, relevant, model, kinds, folder)
        if item_knn is not None:
            of_knn = {ITEM_KNN: candidates_of(item_knn)}
            lists |= _write_kinds(context, parts, relevant, item_knn, of_knn, folder)
        given = _ranking_input(context, parts, model, totals, tuple(lists))
        estimates = measure_ranking(lists, relevant, given)
        estimates += measure_exposure(lists, config.n, len(by_score.labels))
        if config.sampled_negatives is not None and by_score.neighbours is None:
            users = _with_history(parts, relevant, model.rows_for_lists(context.spark))
            estimates += measure_sampled(users, _sampled_input(by_score, totals, given, config.sampled_negatives))
    finally:
        relevant.unpersist()
        context.storage.remove(folder)
    return estimates


def _kinds(context: StageContext, by_score: Candidates, totals: ItemTotals) -> dict[str, Candidates]:
    """Return the candidates by kind: the model's as users get them, by score alone where that differs, and popular."""
    as_listed = with_variety(by_score, read_categories(context), context.config.recommend)
    kinds = {MODEL: as_listed}
    if as_listed is not by_score:
        kinds[BY_SCORE_ALONE] = by_score
    labels = by_score.labels.to_numpy()
    # Candidates are ordered by label, which is the item's index.
    kinds[POPULARITY] = replace(as_listed, popularity=totals.counts[labels].astype(np.float32))
    if totals.recent is not None:
        kinds[POPULARITY_RECENT] = replace(as_listed, popularity=totals.recent[labels].astype(np.float32))
    return kinds


def _write_kinds(
    context: StageContext,
    parts: HeldOutRatings,
    relevant: DataFrame,
    model: Factorization,
    kinds: dict[str, Candidates],
    folder: str,
) -> dict[str, DataFrame]:
    """Write the lists of each kind, and return them as ``user_index, items``; histories come to their users once."""
    users = relevant.selectExpr("user_index", "user_index as user")
    n_known = parts.counts[TRAINING] + parts.counts[FOLD_IN]
    vectors = model.rows_for_lists(context.spark)
    with_vectors = users_with_history(users, vectors, parts.known, n_hidden=n_known).persist()
    # Without vectors, users get what is popular.
    nothing = F.lit(None).cast(with_vectors.schema["factors"].dataType)
    without = with_vectors.withColumn("factors", nothing)
    lists = {}
    try:
        for name, candidates in kinds.items():
            rows = without if name in (POPULARITY, POPULARITY_RECENT) else with_vectors
            path = join(folder, name)
            write_lists(rows, candidates, n=context.config.measured_lengths[-1], path=path)
            written = context.spark.read.parquet(path)
            lists[name] = written.selectExpr("user as user_index", "recommendations.item_id as items")
    finally:
        with_vectors.unpersist()
    return lists


def _with_history(parts: HeldOutRatings, relevant: DataFrame, vectors: DataFrame) -> DataFrame:
    hidden = parts.known.groupBy("user_index").agg(F.collect_list("item_index").alias("hidden"))
    users = relevant.select("user_index", "relevant").join(hidden, "user_index", "left")
    return users.join(vectors.select("user_index", "factors", "bias"), "user_index", "left")


def _ranking_input(
    context: StageContext, parts: HeldOutRatings, model: Factorization, totals: ItemTotals, kinds: tuple[str, ...]
) -> RankingInput:
    config = context.config.evaluate
    classes, class_names = item_classes(totals.counts)
    factors = None
    if context.config.train.model == "factors" and model.rank > 0:
        index, vectors = model.trained_vectors(ITEMS)
        factors = np.zeros((len(totals.counts), model.rank), np.float32)
        factors[index] = vectors[:, : model.rank]
    return RankingInput(
        kinds=kinds,
        lengths=context.config.measured_lengths,
        n=config.n,
        n_ratings=totals.counts,
        n_users=int((model.user_degrees > 0).sum()),
        item_class=classes,
        class_names=tuple(class_names),
        item_vectors=factors,
        activity_bounds=config.activity_bounds,
        replicates=config.replicates,
        seed=config.seed,
        n_shares=number_of_shares(parts.counts[HELD_OUT]),
    )


def _sampled_input(candidates: Candidates, totals: ItemTotals, given: RankingInput, n_negatives: int) -> SampledInput:
    index = candidates.labels.to_numpy()
    vectors = np.zeros((len(totals.counts), candidates.vectors.shape[1]), np.float32)
    vectors[index] = candidates.vectors
    return SampledInput(
        kinds=(MODEL, POPULARITY),
        item_index=index,
        vectors=vectors,
        popularity=totals.counts.astype(np.float64),
        global_mean=candidates.global_mean,
        biases=candidates.biases,
        n_negatives=n_negatives,
        n=given.n,
        replicates=given.replicates,
        seed=given.seed,
        n_shares=given.n_shares,
    )
