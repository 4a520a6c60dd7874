"""What a run's page shows: its records, and what has to be looked up in its tables. All of it fits into JSON."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark import __version__
from recsys_spark.report.explanation import UserExplanation, explain_user
from recsys_spark.report.neighbour_page import read_neighbours
from recsys_spark.report.samples import sample_items, sample_users
from recsys_spark.report.stored_run import StoredRun
from recsys_spark.report.user_page import read_user
from recsys_spark.report.why_page import shown_ids
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import STAGES, Run, StageContext
from recsys_spark.storage import join, read_json
from recsys_spark.tables import (
    INDEXED_RATINGS,
    ITEM_FACTORS,
    QUARANTINE,
    RECOMMENDATIONS,
    SIMILAR_ITEMS,
    USER_FACTORS,
    Table,
)

_SAMPLE_USERS, _SAMPLE_ITEMS, _EXPLAINED = 3, 3, 2
_LONGEST_HISTORY, _LONGEST_TEXT, _STRONGEST = 12, 200, 4
_MOST_FEATURES = 12
_MOST_BARS, _BINS, _POPULARITY_GROUPS = 30, 20, 10
# Of rating scales; and which share of the ratings may lie between them.
_STEPS, _MOVED_SHARE, _NEAR = (1.0, 0.5, 0.25, 0.1), 0.02, 1e-3
# Explaining reads all item factors on the driver; 200 MB of them are enough for a page.
_MOST_FACTORS = 50_000_000


def gather(context: StageContext) -> dict[str, Any]:
    """Collect what the page of a run shows.

    Parameters
    ----------
    context : StageContext
        Of a run in which any of the stages are done; what is not done is left out of the page.

    Returns
    -------
    dict
        Of plain values. Texts from the data are as they are: the page escapes them.

    Notes
    -----
    About ten small jobs. Counts per bin, and a few rows of users, items and quarantine come to the driver.
    """
    storage, run = context.storage, context.run
    records = {stage: context.record(stage) for stage in STAGES if storage.exists(run.stage_record(stage))}
    data: dict[str, Any] = {
        "run": {**read_json(storage, join(run.path, "run.json")), "path": run.path},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "records": records,
        "config": context.config.as_yaml(),
        "versions": _versions(context),
        "manifest": join(run.path, "manifest.json") if storage.exists(join(run.path, "manifest.json")) else None,
        "previous": _previous(run, context),
    }
    if "ingest" in records:
        data["set_aside"] = _set_aside(context)
    if "index" in records:
        data["rating_histogram"] = _rating_histogram(context.read(INDEXED_RATINGS))
    if "train" in records:
        data["activity"] = {
            name: _activity(context.read(table)) for name, table in (("users", USER_FACTORS), ("items", ITEM_FACTORS))
        }
    if "recommend" in records and "train" in records:
        data["lists"] = _lists(context)
        data["users"] = _users(context)
        data["similar"] = _similar(context)
        data["why"] = _why(context, [user["user_id"] for user in data["users"]])
    return data


def _versions(context: StageContext) -> dict[str, str]:
    return {
        "recsys_spark": __version__,
        "spark": context.spark.version,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _previous(run: Run, context: StageContext) -> dict[str, Any] | None:
    """Return id, date and metrics of the run that was published before this one."""
    entries = publications(run.root, context.storage)
    own = [number for number, entry in enumerate(entries) if (entry.run_id, entry.date) == (run.run_id, run.date)]
    for entry in reversed(entries[: own[0]] if own else entries):
        record = entry.run(run.root).stage_record("evaluate")
        if context.storage.exists(record):
            found = read_json(context.storage, record)
            # A run of an earlier version tells its metrics otherwise, and cannot stand beside this one's.
            if "comparisons" in found:
                return {
                    "run_id": entry.run_id,
                    "date": entry.date,
                    "metrics": found["metrics"],
                    "split": found["split"],
                }
    return None


def _set_aside(context: StageContext) -> dict[str, list[dict[str, str]]]:
    """Return two rows for each reason why rows were set aside."""
    rows = (
        context.read(QUARANTINE)
        .withColumn("raw", F.substring("raw", 1, _LONGEST_TEXT))
        .groupBy("reason")
        .agg(F.min(F.struct("raw", "source_file")).alias("first"), F.max(F.struct("raw", "source_file")).alias("last"))
        .collect()
    )
    found = {}
    for row in sorted(rows, key=lambda row: str(row["reason"])):
        samples = {(part["raw"] or "", part["source_file"] or "") for part in (row["first"], row["last"])}
        found[str(row["reason"])] = [{"raw": raw, "file": file} for raw, file in sorted(samples)]
    return found


def _rating_histogram(ratings: DataFrame) -> list[dict[str, Any]]:
    """Count ratings by value, or where these are many by equal ranges of values."""
    extent = ratings.agg(
        F.min("rating").alias("low"), F.max("rating").alias("high"), F.approx_count_distinct("rating").alias("n")
    ).collect()[0]
    if extent["n"] <= _MOST_BARS:
        rows = ratings.groupBy("rating").agg(F.count("*").alias("n")).orderBy("rating").collect()
        return even_bars({float(row["rating"]): int(row["n"]) for row in rows})
    width = (extent["high"] - extent["low"]) / _BINS
    place = F.least(F.floor((F.col("rating") - extent["low"]) / width), F.lit(_BINS - 1))
    counts = {
        row["bin"]: int(row["n"]) for row in ratings.groupBy(place.alias("bin")).agg(F.count("*").alias("n")).collect()
    }
    starts = [extent["low"] + width * number for number in range(_BINS)]
    return [
        {"name": f"{start:.3g} to {start + width:.3g}", "n": counts.get(number, 0)}
        for number, start in enumerate(starts)
    ]


def even_bars(counts: dict[float, int]) -> list[dict[str, Any]]:
    """Return bars at even steps; few values that lie between them, such as means of merged ratings, go to the nearest.

    Parameters
    ----------
    counts : dict of float to int
        Ratings by value.

    Returns
    -------
    list of dict
        ``name``, ``n``, and ``n_moved``, how many of these have another value. Values that lie on no such steps have a
        bar each.
    """
    lowest, total = min(counts, default=0.0), sum(counts.values())
    for step in _STEPS:
        places = {value: round((value - lowest) / step) for value in counts}
        moved = {value for value, place in places.items() if abs(lowest + place * step - value) > _NEAR * step}
        n_bars = max(places.values(), default=0) + 1
        if n_bars <= _MOST_BARS and sum(counts[value] for value in moved) <= _MOVED_SHARE * total:
            bars: list[dict[str, Any]] = [
                {"name": f"{lowest + place * step:g}", "n": 0, "n_moved": 0} for place in range(n_bars)
            ]
            for value, n in counts.items():
                bars[places[value]]["n"] += n
                bars[places[value]]["n_moved"] += n if value in moved else 0
            return bars
    return [{"name": f"{value:g}", "n": n, "n_moved": 0} for value, n in sorted(counts.items())]


def _activity(rows: DataFrame) -> list[dict[str, Any]]:
    """Count a side's rows by their numbers of ratings, in ranges that double."""
    power = F.floor(F.log2(F.col("n_ratings").cast("double"))).cast("int")
    found = {
        row["power"]: int(row["n"]) for row in rows.groupBy(power.alias("power")).agg(F.count("*").alias("n")).collect()
    }
    return [
        {"name": f"{1 << p}" if p == 0 else f"{1 << p}–{(2 << p) - 1}", "n": found.get(p, 0)}
        for p in range(min(found, default=0), max(found, default=-1) + 1)
    ]


def _lists(context: StageContext) -> dict[str, Any]:
    """Count lists and entries, by source, and by how popular the items are."""
    lists = context.read(RECOMMENDATIONS)
    totals = lists.agg(
        F.count("*").alias("n"),
        F.sum(F.size("recommendations")).alias("entries"),
        F.count("short_reason").alias("short"),
    ).collect()[0]
    entries = lists.select(F.explode("recommendations").alias("entry")).select("entry.item_id", "entry.source")
    by_item = entries.groupBy("item_id", "source").agg(F.count("*").alias("times"))
    sources = by_item.groupBy("source").agg(F.sum("times").alias("n")).orderBy(F.desc("n"), "source").collect()
    items = context.read(ITEM_FACTORS).select("item_id", "n_ratings")
    times = by_item.groupBy("item_id").agg(F.sum("times").alias("times"))
    by_degree = (
        items.join(times, "item_id", "left")
        .groupBy("n_ratings")
        .agg(
            F.count("*").alias("items"),
            F.count("times").alias("listed"),
            F.coalesce(F.sum("times"), F.lit(0)).alias("times"),
        )
        .toArrow()
        .sort_by([("n_ratings", "descending")])
    )
    degrees, n_items, listed, n_times = (
        by_degree[name].to_numpy() for name in ("n_ratings", "items", "listed", "times")
    )
    return {
        "n": int(totals["n"]),
        "entries": int(totals["entries"] or 0),
        "short": int(totals["short"]),
        "sources": [{"name": row["source"], "n": int(row["n"])} for row in sources],
        "n_items": int(n_items.sum()),
        "n_listed": int(listed.sum()),
        "popularity": _popularity_groups(n_items, degrees * n_items, n_times),
    }


def _popularity_groups(
    n_items: np.ndarray[Any, Any], n_ratings: np.ndarray[Any, Any], n_times: np.ndarray[Any, Any]
) -> list[dict[str, float]]:
    """Split items, the most rated first, into tenths; return each one's share of the ratings and of the places."""
    ends = np.concatenate([[0.0], np.cumsum(n_items)])
    bounds = np.linspace(0.0, ends[-1], _POPULARITY_GROUPS + 1)
    shares = []
    for counts in (n_ratings, n_times):
        cumulated = np.interp(bounds, ends, np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)]))
        shares.append(np.diff(cumulated) / max(float(counts.sum()), 1.0))
    return [{"ratings": float(ratings), "places": float(places)} for ratings, places in zip(*shares, strict=True)]


def _users(context: StageContext) -> list[dict[str, Any]]:
    found = []
    for user_id in sample_users(context, _SAMPLE_USERS):
        page = read_user(
            context.run, context.storage, user_id, context.spark, duplicates=context.config.ingest.duplicates
        )
        history = [
            {"rating": row["rating"], "name": page.titles.get(row["item_id"], row["item_id"])}
            for row in page.history[:_LONGEST_HISTORY]
        ]
        gets = [
            {**entry, "name": page.titles.get(entry["item_id"], entry["item_id"])}
            for entry in page.recommendations[:20]
        ]
        found.append(
            {
                "user_id": user_id,
                "n_ratings": len(page.history),
                "history": history,
                "gets": gets,
                "short_reason": page.short_reason,
            }
        )
    return found


def _similar(context: StageContext) -> list[dict[str, Any]]:
    if not _has(context, SIMILAR_ITEMS):
        return []
    found = []
    for item_id in sample_items(context, _SAMPLE_ITEMS):
        page = read_neighbours(context.run, context.storage, SIMILAR_ITEMS, item_id, context.spark)
        neighbours = [
            {"name": page.titles.get(entry["item_id"], entry["item_id"]), "similarity": entry["similarity"]}
            for entry in page.neighbours[:10]
        ]
        found.append({"name": page.titles.get(item_id, item_id), "model": page.model, "neighbours": neighbours})
    return found


def _why(context: StageContext, user_ids: list[str]) -> list[dict[str, Any]]:
    """Explain the first item of some lists; nothing for neighbourhood models, or where the vectors are too many."""
    train = context.config.train
    if train.is_neighbourhood:
        return []
    width = context.record("features")["width"] if train.model == "feature_regression" else train.rank
    if context.record("index")["n_items"] * width > _MOST_FACTORS:
        return []
    stored = StoredRun.open(context.run, context.storage, context.spark)
    found = []
    for user_id in user_ids[:_EXPLAINED]:
        explained = explain_user(stored, user_id)
        if explained.explanations and explained.explanations[0].parts:
            found.append(_explained(explained, stored))
    return found


def _explained(explained: UserExplanation, stored: StoredRun) -> dict[str, Any]:
    one, titles = explained.explanations[0], stored.titles(shown_ids(explained))
    order = np.argsort(-one.of_history, kind="stable")
    strongest = [*order[:_STRONGEST], *order[-1:]] if len(order) > _STRONGEST else list(order)
    history = [
        {
            "name": titles.get(explained.history.item_ids[k], explained.history.item_ids[k]),
            "rating": float(explained.history.ratings[k]),
            "adds": float(one.of_history[k]),
        }
        for k in strongest
    ]
    shown = sum(row["adds"] for row in history)
    features = [{"name": name, "adds": added} for name, added in one.of_features.items() if name]
    return {
        "user_id": explained.user_id,
        "item": titles.get(one.item_id, one.item_id),
        "score": one.score,
        "log_odds": one.log_odds,
        "parts": {name: float(value) for name, value in one.parts.items() if value},
        "history": history,
        "others": float(one.of_history.sum() - shown),
        "n_others": len(explained.history.item_ids) - len(history),
        "features": features[:_MOST_FEATURES],
        "other_features": sum(feature["adds"] for feature in features[_MOST_FEATURES:]),
        "n_other_features": max(0, len(features) - _MOST_FEATURES),
        "without_features": one.of_features.get(""),
    }


def _has(context: StageContext, table: Table) -> bool:
    return context.storage.exists(context.run.table_path(table))
