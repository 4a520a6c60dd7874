"""Vectors for items that nobody has rated, from their features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.factor_tables import collect_rows, factor_rows
from recsys_spark.features import ItemFeatures, listed_items, read_item_features
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.factor_map import fit_factor_map
from recsys_spark.kernels.feature_regression import PopulationModel
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.tables import CONTENT_FACTORS, FEATURE_WEIGHTS, INDEXED_RATINGS, ITEM_FACTORS

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.config.features import FactorMapConfig
    from recsys_spark.recommend.candidates import Candidates
    from recsys_spark.runs.run_directory import StageContext

CONTENT = "content"


def write_content_factors(context: StageContext) -> dict[str, int]:
    """Write ``content_factors``: vectors of the items that have features and no ratings.

    Returns
    -------
    dict
        ``n_content_items``; empty where lists have no place for new items.

    Notes
    -----
    Features, item factors and the indexes of rated items come to the driver. One shuffle of the latter, one join of
    the items by id.
    """
    features = read_item_features(context) if context.config.recommend.max_new_items > 0 else None
    if features is None:
        return {}
    model = context.record("train")
    trained = context.read(ITEM_FACTORS).select("item_index", "factors", "bias", "n_ratings")
    index, vectors = collect_rows(trained, ITEMS, biases=model["biases"])
    is_new = features.is_known.copy()
    is_new[index] = False
    # Ratings that no loss was fitted to, as dislikes where likings alone count, are ratings all the same.
    rated = context.read(INDEXED_RATINGS).select("item_index").distinct().toArrow()["item_index"].to_numpy()
    is_new[rated] = False
    new = np.flatnonzero(is_new).astype(np.int32)
    if context.config.train.model == "feature_regression":
        found = _population(context).item_vectors(features.dense()[new])
    else:
        found = content_vectors(features, new, index, vectors, _n_ratings(trained, index), factor_map_config(context))
    everything = np.zeros((len(is_new), vectors.shape[1]), np.float32)
    everything[new] = found
    none = np.zeros(len(is_new), np.int32)
    rows = factor_rows(context.spark, ITEMS, everything, none, biases=model["biases"], index=new)
    context.write(CONTENT_FACTORS, rows.join(listed_items(context), "item_index"))
    context.progress.say(f"recommend: {len(new):,} items have features and no ratings", n_content_items=len(new))
    return {"n_content_items": len(new)}


def factor_map_config(context: StageContext) -> FactorMapConfig:
    """Return the settings of the map from features to factors; ``item_features`` has to be configured."""
    assert context.config.item_features is not None
    return context.config.item_features.factor_map


def content_vectors(
    features: ItemFeatures,
    new: Int32Array,
    index: Int32Array,
    vectors: Float32Array,
    n_ratings: Int32Array,
    config: FactorMapConfig,
) -> Float32Array:
    """Return what vectors items may be expected to have, by their features.

    Parameters
    ----------
    features : ItemFeatures
    new : int32 array of shape (m,)
        Indexes of those items.
    index, vectors, n_ratings : int32 (n,), float32 (n, width), int32 (n,) arrays
        The trained items, whose vectors the map is learned from: those that have features and enough ratings.
    config : FactorMapConfig

    Returns
    -------
    float32 array of shape (m, width)
        The same bit for bit in whatever order the trained items come.
    """
    dense = features.dense()
    order = np.argsort(index)
    order = order[features.is_known[index[order]] & (n_ratings[order] >= config.min_ratings)]
    return fit_factor_map(dense[index[order]], vectors[order], config.reg_param).vectors(dense[new])


def with_new_items(candidates: Candidates, items: Int32Array) -> Candidates:
    """Say which candidates are new: the items of some indexes, as far as they are candidates."""
    is_new = np.zeros(len(candidates.labels), np.bool_)
    columns = candidates.column_of_index[items]
    is_new[columns[columns >= 0]] = True
    return replace(candidates, is_new=is_new)


def _n_ratings(trained: DataFrame, index: Int32Array) -> Int32Array:
    """Return the numbers of ratings in the order of ``index``."""
    table = trained.select("item_index", "n_ratings").toArrow()
    counts = np.zeros(int(index.max(initial=-1)) + 1, np.int32)
    counts[table["item_index"].to_numpy()] = table["n_ratings"].to_numpy()
    return counts[index]


def _population(context: StageContext) -> PopulationModel:
    """Return the population's model of a regression on features."""
    rows = context.read(FEATURE_WEIGHTS).orderBy(F.col("column")).toArrow()
    weights: Float64Array = rows["weight"].to_numpy()
    record: dict[str, Any] = context.record("train")
    return PopulationModel(weights, record["population_bias"], 0.0)
