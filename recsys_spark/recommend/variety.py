"""What makes lists varied: limits per category, marginal relevance, and less weight for what is popular."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.features import listed_items, n_listed_items
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.capped_top_n import capped_top_n, capped_top_n_with_new, places_walked
from recsys_spark.kernels.marginal_relevance import rerank
from recsys_spark.kernels.top_n import top_n
from recsys_spark.tables import CATALOGUE

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.config.recommend import RecommendConfig
    from recsys_spark.recommend.candidates import Candidates
    from recsys_spark.runs.run_directory import StageContext


@dataclass(frozen=True, slots=True)
class Variety:
    """What beside the scores decides the lists.

    Attributes
    ----------
    categories : int32 array of shape (n_items,), or None
        Category of each column of the candidates, -1: none; None: no limit.
    max_per_category : int
    relevance_weight : float or None
        Weight of the score in marginal relevance; None: lists are by score.
    pool : int
        Items that marginal relevance chooses from.
    max_new : int
        New items in a list, where that is limited beside the categories; 0: it is not.
    limits : str
        What is limited, in words.
    """

    categories: Int32Array | None = None
    max_per_category: int = 0
    relevance_weight: float | None = None
    pool: int = 0
    max_new: int = 0
    limits: str = ""

    def places(self, n: int) -> int:
        """Return how many items of each user have to be found for a list of n."""
        return n if self.relevance_weight is None else max(n, self.pool)

    def entries(self, n: int) -> int:
        """Return how many items of each user are held at once for a list of n."""
        places = self.places(n)
        return places if self.categories is None else places_walked(places)


BY_SCORE = Variety()


def with_variety(candidates: Candidates, category_of_item: Int32Array | None, config: RecommendConfig) -> Candidates:
    """Return the candidates with what is configured to make lists varied.

    Parameters
    ----------
    candidates : Candidates
    category_of_item : int32 array of shape (n_items,), or None
        By item index, as ``read_categories`` returns it; None: no limit.
    config : RecommendConfig

    Returns
    -------
    Candidates
        The same where nothing is configured. Damping is part of the vectors, so that ranking costs what it did: each
        item's bias is less by ``popularity_damping * log(1 + its ratings)``. A model without biases gets them, 0
        for all users. Where categories are not limited, new items are one of their own, of ``max_new_items``, and the
        others have none.
    """
    mmr = config.mmr
    if category_of_item is None and candidates.is_new is None and mmr is None and config.popularity_damping == 0:
        return candidates
    variety = Variety(
        relevance_weight=None if mmr is None else mmr.relevance_weight, pool=0 if mmr is None else mmr.pool
    )
    has_new = candidates.is_new is not None
    if category_of_item is not None:
        # There may be more items with an index than there are rated ones.
        items = np.flatnonzero(candidates.column_of_index >= 0)
        categories = np.empty(len(candidates.labels), np.int32)
        categories[candidates.column_of_index[items]] = category_of_item[items]
        limit, limits = config.max_per_category or 0, f"{config.max_per_category} of a category"
        if has_new:
            limits += f" and {config.max_new_items} new items"
        max_new = config.max_new_items if has_new else 0
        variety = replace(variety, categories=categories, max_per_category=limit, max_new=max_new, limits=limits)
    elif candidates.is_new is not None:
        categories = np.where(candidates.is_new, 0, -1).astype(np.int32)
        limit, limits = config.max_new_items, f"{config.max_new_items} new items"
        variety = replace(variety, categories=categories, max_per_category=limit, limits=limits)
    if config.popularity_damping == 0:
        return replace(candidates, variety=variety)
    damping = popularity_damping(candidates.popularity, config)
    vectors = damped_vectors(*_split(candidates), damping)
    return replace(candidates, vectors=vectors, biases=True, variety=variety)


def popularity_damping(popularity: Float32Array, config: RecommendConfig) -> Float64Array:
    """Return what the scores of items lose, float64 (n_items,), from their numbers of ratings."""
    return config.popularity_damping * np.log1p(popularity.astype(np.float64))


def damped_vectors(factors: Float32Array, bias: Float32Array, damping: Float64Array) -> Float32Array:
    """Return item vectors whose bias, the last column, is less by the damping."""
    return np.concatenate([factors, (bias - damping)[:, None].astype(np.float32)], axis=1)


def best_items(
    candidates: Candidates,
    user_vectors: Float32Array,
    item_vectors: Float32Array,
    *,
    biases: bool,
    global_mean: float,
    n: int,
    excluded_indptr: Int64Array,
    excluded_columns: Int32Array,
    may_be_new: bool = True,
) -> tuple[Int32Array, Float32Array]:
    """List users' items by score, within the limits per category, and re-ranked where that is configured.

    Parameters and results are those of `top_n`; ``item_vectors`` may be others than those of the candidates
    (popularity). Marginal relevance chooses from the list that the limits allow, so that they hold for what it
    chooses, and tells its own values instead of scores. Without ``may_be_new`` no new item is listed; their scores have
    to be below those of all others.
    """
    variety = candidates.variety
    rank: Callable[..., tuple[Int32Array, Float32Array]] = top_n
    if variety.categories is not None:
        limits: dict[str, Any] = {"categories": variety.categories, "max_per_category": variety.max_per_category}
        rank = partial(capped_top_n, **limits)
        if candidates.is_new is not None and variety.max_new > 0:
            rank = partial(capped_top_n_with_new, is_new=candidates.is_new, max_new=variety.max_new, **limits)
    columns, scores = rank(
        user_vectors, item_vectors, biases=biases, global_mean=global_mean, n=variety.places(n),
        excluded_indptr=excluded_indptr, excluded_columns=excluded_columns,
    )  # fmt: skip
    if candidates.is_new is not None and not may_be_new:
        # They stand behind all others: what is cut off is the end of a list.
        is_cut = (columns >= 0) & candidates.is_new.take(columns, mode="clip")
        columns, scores = np.where(is_cut, np.int32(-1), columns), np.where(is_cut, np.float32(np.nan), scores)
    if variety.relevance_weight is None:
        return columns, scores
    return rerank(columns, scores, _split(candidates)[0], relevance_weight=variety.relevance_weight, n=n)


def item_categories(catalogue: DataFrame) -> DataFrame:
    """Return ``item_id, category`` of the catalogue's items that have one: text, but for blanks around it."""
    return catalogue.select("item_id", F.trim("category").alias("category")).where("category != ''")


def read_categories(context: StageContext) -> Int32Array | None:
    """Read the categories of the index's items, as numbers.

    Returns
    -------
    int32 array of shape (n_items,), or None
        By item index, -1 where the catalogue has no category or no such item; None where lists have no limit.
        One join by item; the driver receives every item's index and category.
    """
    if context.config.recommend.max_per_category is None:
        return None
    found = item_categories(context.read(CATALOGUE)).join(listed_items(context), "item_id")
    rows = found.select("item_index", "category").toArrow()
    numbers = rows["category"].combine_chunks().dictionary_encode().indices
    category_of_item = np.full(n_listed_items(context), -1, np.int32)
    category_of_item[rows["item_index"].to_numpy()] = numbers.to_numpy()
    return category_of_item


def count_without_category(context: StageContext, candidates: Candidates) -> dict[str, int]:
    """Tell how many candidates no limit holds for because they have no category; nothing where there is none."""
    categories = candidates.variety.categories
    if categories is None or context.config.recommend.max_per_category is None:
        return {}
    count, n_categories = int((categories < 0).sum()), len(np.unique(categories[categories >= 0]))
    context.progress.say(
        f"recommend: at most {candidates.variety.max_per_category} items of each of {n_categories:,} categories; "
        f"{count:,} items have no category, and no limit",
        n=count,
    )
    return {"n_without_category": count}


def _split(candidates: Candidates) -> tuple[Float32Array, Float32Array]:
    """Return the factors of the items, and their biases, 0 where there are none."""
    if not candidates.biases:
        return candidates.vectors, np.zeros(len(candidates.vectors), np.float32)
    return candidates.vectors[:, :-1], candidates.vectors[:, -1]
