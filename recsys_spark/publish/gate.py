"""The gate: what must hold of the written table before readers may see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: how many rows break it, and one or two users for whom it does not."""

    name: str
    n_broken: int
    examples: list[str]


def check_recommendations(
    lists: DataFrame,
    user_index: DataFrame,
    eligibility: DataFrame,
    hidden: dict[str, DataFrame],
    n: int,
    rows: str = "users",
) -> list[Check]:
    """Scan the whole table for entries that must not be there.

    Parameters
    ----------
    lists : DataFrame
        The ``recommendations`` table as written.
    user_index : DataFrame
        The users that there are.
    eligibility : DataFrame
        ``item_id, removed_by``: the items that there are, and what keeps them out of all lists.
    hidden : dict
        ``user_id, item_id`` that must not be recommended, by what is wrong with them.
    n : int
        Entries per list; a shorter one must say why.
    rows : str
        What the lists are for, in the names of the checks.

    Returns
    -------
    list of Check
        All checks, passed or not. Shuffles: the entries by item and by pair. The driver receives the counts
        and up to two users per check.
    """
    entries = lists.select("user_id", F.explode("recommendations").alias("entry")).select("user_id", "entry.*")
    found = [
        _check(f"{rows} with more than one list", lists.groupBy("user_id").count().where("count > 1")),
        _check(f"lists for unknown {rows}", lists.join(user_index, "user_id", "left_anti")),
        _check(f"{rows} without a list", user_index.join(lists, "user_id", "left_anti")),
        _check("entries of unknown items", entries.join(eligibility, "item_id", "left_anti")),
        _check("items that are not eligible", entries.join(eligibility.where("removed_by is not null"), "item_id")),
        *_check_each_list(lists, n),
    ]
    for name, pairs in hidden.items():
        found.append(
            _check(name, entries.join(pairs.select("user_id", "item_id"), ["user_id", "item_id"], "left_semi"))
        )
    return found


def check_categories(
    lists: DataFrame, categories: DataFrame, limit: int, limited: str = "items of a category"
) -> Check:
    """Look for lists with more than ``limit`` items of one category.

    Parameters
    ----------
    lists : DataFrame
        The ``recommendations`` table as written.
    categories : DataFrame
        ``item_id, category`` of the items that have one.
    limit : int
    limited : str
        What the limit is on, in words.

    Returns
    -------
    Check
        Shuffles: the entries by item, then by user and category. The driver receives a count and two users.
    """
    entries = lists.select("user_id", F.explode("recommendations.item_id").alias("item_id"))
    counts = entries.join(categories, "item_id").groupBy("user_id", "category").count()
    return _check(f"lists with more than {limit} {limited}", counts.where(F.col("count") > limit))


def check_rows(rows: DataFrame, lists: DataFrame) -> Check:
    """Look for rows that are no entry of a list, and entries that are no row, or more than one.

    Parameters
    ----------
    rows : DataFrame
        ``recommendation_rows`` as written.
    lists : DataFrame
        ``recommendations`` as written.

    Returns
    -------
    Check
        One shuffle, of all rows and all entries.
    """
    entries = (
        lists.select("*", F.explode("recommendations").alias("entry")).select("*", "entry.*").select(*rows.columns)
    )
    sides = rows.withColumn("side", F.lit(1)).unionByName(entries.withColumn("side", F.lit(-1)))
    differing = sides.groupBy(*rows.columns).agg(F.sum("side").alias("sides")).where("sides != 0")
    return _check("rows of recommendation_rows that are not those of the lists", differing)


def check_neighbours(lists: DataFrame, index: DataFrame, eligibility: DataFrame, n: int) -> list[Check]:
    """Scan a table of neighbours: they are lists of items for an item, or of users for a user.

    Parameters
    ----------
    lists : DataFrame
        ``similar_items`` or ``similar_users`` as written.
    index : DataFrame
        The rows that there are, by the same id.
    eligibility : DataFrame
        The id, and ``removed_by``: what keeps a row from being a neighbour.
    n : int
        Neighbours per row.

    Returns
    -------
    list of Check
        As of `check_recommendations`, and that no row is its own neighbour and every similarity is above 0.
    """
    row = lists.columns[0]
    entries = F.transform(
        "neighbours",
        lambda e: F.struct(e[row].alias("item_id"), e["similarity"].alias("score"), e["position"].alias("position")),
    )
    as_lists = lists.select(F.col(row).alias("user_id"), entries.alias("recommendations"), "short_reason")
    ids = index.select(F.col(row).alias("user_id"))
    eligible = eligibility.select(F.col(row).alias("item_id"), "removed_by")
    kind = row.removesuffix("_id") + "s"
    itself = {f"{kind} that are their own neighbours": ids.withColumn("item_id", F.col("user_id"))}
    not_similar = as_lists.where(F.exists("recommendations.score", lambda score: score <= 0))
    return [
        *check_recommendations(as_lists, ids, eligible, itself, n, kind),
        _check("similarities that are not above 0", not_similar),
    ]


def check_ids(faults: dict[str, DataFrame]) -> list[Check]:
    """Count rows that should not be there: frames with a column ``id``, by what is wrong with their rows; one pass."""
    named = [rows.select(F.lit(name).alias("fault"), "id") for name, rows in faults.items()]
    counted = (
        reduce(DataFrame.unionByName, named).groupBy("fault").agg(F.count("*").alias("n"), F.min("id").alias("id"))
    )
    found = {row["fault"]: row for row in counted.collect()}
    return [
        Check(name, int(found[name]["n"]), [repr(found[name]["id"])]) if name in found else Check(name, 0, [])
        for name in faults
    ]


def _check_each_list(lists: DataFrame, n: int) -> list[Check]:
    """Check what can be seen from one list alone, all in one pass."""
    holds = {
        "items twice in one list": _distinct_items(),
        "positions that are not 1, 2, 3, ...": _contiguous(),
        "scores that are not finite": _finite(),
        "scores or ties out of order": _ordered(),
        "lists too long, or short without a reason": _complete(n),
    }
    # A missing list makes every test null, which must not count as passed.
    holds = {name: F.coalesce(good, F.lit(False)) for name, good in holds.items()}
    counts = [F.count_if(~good).alias(f"n{k}") for k, good in enumerate(holds.values())]
    examples = [F.min(F.when(~good, F.col("user_id"))).alias(f"user{k}") for k, good in enumerate(holds.values())]
    row = lists.agg(*counts, *examples).collect()[0]
    return [
        Check(name, int(row[f"n{k}"]), [repr(row[f"user{k}"])] if row[f"n{k}"] else []) for k, name in enumerate(holds)
    ]


def require_all(checks: list[Check], where: str) -> None:
    """Raise ContractError unless every check passed."""
    broken = [check for check in checks if check.n_broken]
    if broken:
        raise ContractError(
            "a table did not pass the gate; readers keep what they have",
            where=where,
            got="; ".join(f"{c.n_broken:,} {c.name} (such as {', '.join(c.examples)})" for c in broken),
            allowed="none of these",
            remedy="this is a defect or a damaged file, not a setting: keep the run directory and report it",
        )


def _check(name: str, broken: DataFrame) -> Check:
    row = broken.agg(
        F.count("*").alias("n"), F.min("user_id").alias("first"), F.max("user_id").alias("last")
    ).collect()[0]
    return Check(name, int(row["n"]), sorted({repr(row["first"]), repr(row["last"])}) if row["n"] else [])


def _items() -> Column:
    return F.col("recommendations.item_id")


def _distinct_items() -> Column:
    return F.size(F.array_distinct(_items())) == F.size(_items())


def _contiguous() -> Column:
    expected = F.sequence(F.lit(1), F.size("recommendations"))
    return (F.size("recommendations") == 0) | (F.col("recommendations.position") == expected)


def _complete(n: int) -> Column:
    size = F.size("recommendations")
    return (size == n) | ((size < n) & F.col("short_reason").isNotNull())


def _finite() -> Column:
    return F.forall(
        F.col("recommendations.score"),
        lambda s: s.isNotNull() & ~F.isnan(s) & (F.abs(s) < F.lit(float("inf"))),
    )


def _ordered() -> Column:
    """Return whether scores fall, and equal scores stand by item id (both in UTF-8 byte order)."""
    key = F.transform("recommendations", lambda e: F.struct((-e["score"]).alias("score"), e["item_id"].alias("id")))
    return F.array_sort(key) == key
