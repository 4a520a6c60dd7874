"""A run's tables beside those that readers see, popularity, and a brute force: what the gate knows beyond faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import RecsysError
from recsys_spark.publish.churn import compare_lists
from recsys_spark.publish.gate import Check
from recsys_spark.publish.limits import Limit, Measured, limits_of_churn, limits_of_lists, limits_of_metrics
from recsys_spark.publish.oracle import OracleModel, compare_with_oracle
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.runs.sealed_files import table_faults
from recsys_spark.tables import (
    FOLDED_FACTORS,
    ITEM_ELIGIBILITY,
    ITEM_FACTORS,
    METRICS,
    RECOMMENDATIONS,
    USER_FACTORS,
    USER_SEGMENTS,
)

_FEWEST_USERS, _MOST_USERS = 20, 1000


def judge(context: StageContext) -> tuple[list[Limit], dict[str, Any]]:
    """Compare a run's lists with those that readers see, and its metrics with theirs and with popularity.

    Returns
    -------
    limits : list of Limit
        Everything that was compared, with or without a limit.
    details : dict
        The run compared with, and its churn by segment; why there was nothing to compare with.

    Notes
    -----
    One join of both tables of lists by user. A current run that is damaged is told and not compared with: what is whole
    is better than what is not.
    """
    config, lists = context.config.gate, context.read(RECOMMENDATIONS)
    row = lists.agg(F.count("*").alias("n"), F.count_if(F.col("short_reason").isNotNull()).alias("short")).collect()[0]
    limits = limits_of_lists(config, row["n"], row["short"])
    current, why = _current_run(context)
    details: dict[str, Any] = {"compared_with": current.run_id if current else None, "why_not": why}
    if current is not None:
        before = RECOMMENDATIONS.read(context.spark, current.table_path(RECOMMENDATIONS))
        has_segments = context.config.recommend.segments is not None
        churn = compare_lists(before, lists, context.read(USER_SEGMENTS) if has_segments else None)
        limits += limits_of_churn(config, churn[0], before.count())
        details["churn"] = [asdict(each) for each in churn]
        context.progress.say(
            f"publish: beside run {current.run_id}: overlap {churn[0].overlap:.3f} ± {churn[0].overlap_margin:.3f}, "
            f"{churn[0].changed_positions:.1%} of places changed, {churn[0].same_lists:.1%} of lists the same",
            overlap=churn[0].overlap,
        )
    elif why:
        context.progress.say(f"publish: not compared with what readers see: {why}")
    mine, popularity = (_measured(context, context.run, model) for model in ("model", "popularity"))
    theirs = _measured(context, current, "model") if current is not None else {}
    return limits + limits_of_metrics(config, mine, popularity, theirs), details


def _current_run(context: StageContext) -> tuple[Run | None, str]:
    """Return the run that readers see, unless it is this one or cannot be read; and why not."""
    entries = publications(context.run.root, context.storage)
    if not entries:
        return None, ""
    current = entries[-1].run(context.run.root)
    if current == context.run:
        return None, ""
    try:
        faults = [f for table in (RECOMMENDATIONS, METRICS) for f in table_faults(current, table.name, context.storage)]
    except (RecsysError, OSError, ValueError) as error:
        faults = [str(error).partition("\n")[0]]
    return (None, f"run {current.run_id} is damaged: {faults[0]}") if faults else (current, "")


def _measured(context: StageContext, run: Run, model: str) -> Mapping[str, Measured]:
    path = run.table_path(METRICS)
    if not context.storage.exists(path):
        return {}
    rows = METRICS.read(context.spark, path).where((F.col("model") == model) & (F.col("segment") == "all")).collect()
    ending = f"@{context.config.evaluate.n}"
    return {
        row["metric"].removesuffix(ending): Measured(row["value"], row["n"])
        for row in rows
        if row["metric"].endswith(ending)
    }


def ask_oracle(context: StageContext, hidden: Mapping[str, DataFrame]) -> tuple[dict[str, Any], list[Check]]:
    """Compute the lists of a few users again by brute force in double precision, from the published factors.

    Parameters
    ----------
    context : StageContext
    hidden : mapping
        Pairs ``user_id, item_id`` that must not be listed, by why.

    Returns
    -------
    details : dict
        The agreement, or why there is none.
    checks : list of Check

    Notes
    -----
    The item factors, the vectors of those users and their hidden items come to the driver.
    """
    why = _no_oracle(context)
    if why:
        return {"skipped": why}, []
    users = _sample(context)
    agreement = compare_with_oracle(
        _oracle_model(context), users, _hidden_items(context, users, hidden), context.config.recommend.n
    )
    context.progress.say(
        f"publish: of {agreement.users:,} users computed again in double precision, {len(agreement.disagreeing):,} "
        f"disagree; scores differ by at most {agreement.largest_difference:.1e}",
        users=agreement.users,
    )
    check = Check(
        "lists that a brute force in double precision does not confirm",
        len(agreement.disagreeing),
        [repr(user) for user in agreement.disagreeing[:2]],
    )
    return asdict(agreement), [check]


def _no_oracle(context: StageContext) -> str:
    lists = context.config.recommend
    if context.config.gate.oracle_share == 0:
        return "gate.oracle_share is 0"
    if context.config.train.model != "factors":
        return f"scores of {context.config.train.model} are no products of factors"
    varied = lists.mmr is not None or lists.max_per_category is not None or lists.popularity_damping > 0
    if varied or lists.max_new_items > 0:
        return "lists are not by score alone"
    return ""


def _sample(context: StageContext) -> list[dict[str, Any]]:
    """Return users with a vector, others every night: ``user_id, recommendations, factors, bias``."""
    share = context.config.gate.oracle_share
    lists = context.read(RECOMMENDATIONS).withColumn("source", F.get("recommendations.source", F.lit(0)))
    lists = lists.where(F.col("source").isin("cf", "fold_in")).select("user_id", "source", "recommendations")
    n = min(max(round(share * context.read(USER_FACTORS).count()), _FEWEST_USERS), _MOST_USERS)
    chosen = lists.orderBy(F.xxhash64("user_id", F.lit(context.run.run_id)), "user_id").limit(n)
    vectors = context.read(USER_FACTORS).select("user_id", "factors", "bias", F.lit("cf").alias("source"))
    if context.storage.exists(context.run.table_path(FOLDED_FACTORS)):
        folded = context.read(FOLDED_FACTORS).select("user_id", "factors", "bias", F.lit("fold_in").alias("source"))
        vectors = vectors.unionByName(folded)
    rows: list[dict[str, Any]] = chosen.join(vectors, ["user_id", "source"], "left").toArrow().to_pylist()
    return rows


def _oracle_model(context: StageContext) -> OracleModel:
    eligible = context.read(ITEM_ELIGIBILITY).where("removed_by is null")
    items = context.read(ITEM_FACTORS).join(eligible, "item_id", "left_semi").select("item_id", "factors", "bias")
    found = items.toArrow()
    model = context.record("train")
    factors = found["factors"].combine_chunks()
    flat = factors.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return OracleModel(
        model["global_mean"],
        found["item_id"].to_pylist(),
        flat.reshape(found.num_rows, -1) if found.num_rows else np.zeros((0, model["rank"])),
        found["bias"].to_numpy().astype(np.float64),
        model["loss"] == "logistic",
    )


def _hidden_items(
    context: StageContext, users: list[dict[str, Any]], hidden: Mapping[str, DataFrame]
) -> dict[str, set[str]]:
    chosen = context.spark.createDataFrame([(user["user_id"],) for user in users], "user_id string")
    found: dict[str, set[str]] = {}
    for pairs in hidden.values():
        for row in pairs.join(F.broadcast(chosen), "user_id").select("user_id", "item_id").toArrow().to_pylist():
            found.setdefault(row["user_id"], set()).add(row["item_id"])
    return found
