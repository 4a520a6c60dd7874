"""The features stage: the feature table in, ``item_features`` and their encoder out."""

from __future__ import annotations

import logging
import math
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config.features import ItemFeaturesConfig
from recsys_spark.errors import ContractError, RecsysError
from recsys_spark.features.cells import cell_statistics, typed_cells
from recsys_spark.features.encoder import CellStatistics, Encoder, FeatureEncoding, fit_encoder
from recsys_spark.features.item_features import encode_cells, encoder_path, listed_items, read_encoder
from recsys_spark.features.item_words import item_words
from recsys_spark.index import write_dense_index
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.shared_value import shared
from recsys_spark.storage import join
from recsys_spark.storage.table_files import list_table_files, read_table_file
from recsys_spark.tables import ITEM_FEATURES, ITEM_INDEX, ITEM_WORDS, NEW_ITEMS

TABLES = (ITEM_FEATURES, ITEM_WORDS, NEW_ITEMS)
log = logging.getLogger(__name__)


def run(context: StageContext) -> dict[str, Any]:
    """Encode the features of all items that the feature table names, rated or not.

    Shuffles: the table by item, those of `cell_statistics` and `write_dense_index`, and a join with the index.

    Returns
    -------
    dict
        ``encoder`` (its version), ``encoder_of`` (the run that fitted it), ``width``, how many items are new, how many
        rated and new ones lack features, what each feature's cells are like, and the files.

    Raises
    ------
    ConfigError
        If the file or a column is not there.
    ContractError
        If the table has no item of the log, or nothing that it says of them can be encoded.
    """
    config = context.config.item_features
    assert config is not None
    work = join(context.run.path, "_feature_cells")
    context.storage.remove(work)
    rows = read_table_file(context.spark, config, "item_features", config.columns)
    typed_cells(rows, config.features).write.mode("error").parquet(work)
    cells = context.spark.read.parquet(work)
    published = _published_encoder(context)
    comparable = _comparable(config, None if published is None else published[1])
    found = cell_statistics(cells, config.features, {name: feature.values for name, feature in comparable.items()})
    encoder, fitted_by = _choose_encoder(context, config, found, published)
    # What is odd about the table is told before it is refused.
    counts = _count_rows(context, rows, cells)
    features = _tell(context, config, encoder, found, comparable)
    if counts["n_items"] == 0:
        raise ContractError(
            "the feature table has no items",
            where=f"item_features: {config.path}",
            got=f"{counts['n_rows']:,} rows, none with an item",
            remedy="check item_features.item and format: a file of JSON lines has one object on each line",
        )
    if encoder.width == 0:
        raise ContractError(
            "no feature has a value that could be encoded",
            where=f"item_features: {config.path}",
            got=f"{counts['n_items']:,} items",
            remedy="check the columns' names and separators, and min_items",
        )
    context.storage.write_text(encoder_path(context.run), encoder.as_json())
    counts |= _write(context, cells, encoder)
    context.storage.remove(work)
    files = [file.as_dict() for file in list_table_files(config, "item_features", context.spark)]
    told = {"encoder": encoder.version, "encoder_of": fitted_by, "width": encoder.width}
    return told | counts | {"features": features, "files": files}


def _published_encoder(context: StageContext) -> tuple[Run, Encoder] | None:
    """Return the encoder of the newest published run that has one, other than this run."""
    root = context.run.root
    for entry in reversed(publications(root, context.storage)):
        run = entry.run(root)
        if run == context.run or not context.storage.exists(encoder_path(run)):
            continue
        try:
            return run, read_encoder(run, context.storage)
        except RecsysError as error:
            assert context.config.item_features is not None
            if context.config.item_features.encoder == "published":
                raise
            log.warning(f"features: drift is not measured: {error}")
            return None
    return None


def _comparable(config: ItemFeaturesConfig, before: Encoder | None) -> dict[str, FeatureEncoding]:
    """Return those features of an earlier encoder that are configured now as they were."""
    now = {name: column.model_dump() for name, column in config.features.items()}
    earlier = () if before is None else before.features
    return {feature.name: feature for feature in earlier if now.get(feature.name) == feature.settings}


def _choose_encoder(
    context: StageContext,
    config: ItemFeaturesConfig,
    found: dict[str, CellStatistics],
    published: tuple[Run, Encoder] | None,
) -> tuple[Encoder, str]:
    """Return the published encoder where it is asked for and fits, or else a new one; and the run that fitted it."""
    if config.encoder == "published":
        if published is not None and published[1].has_settings(config.features):
            return published[1], published[0].run_id
        why = "nothing was published yet" if published is None else "the settings have changed"
        context.progress.say(f"features: the encoder is fitted anew: {why}")
    return fit_encoder(config.features, found), context.run.run_id


def _write(context: StageContext, cells: DataFrame, encoder: Encoder) -> dict[str, int]:
    known = context.read(ITEM_INDEX)
    n_new = write_dense_index(
        cells.select("item_id").join(known, "item_id", "left_anti"),
        NEW_ITEMS,
        context.run.table_path(NEW_ITEMS),
        join(context.run.path, f"_{NEW_ITEMS.name}"),
        context.storage,
        start=context.record("index")["n_items"],
    )
    with shared(context.spark, encoder) as everywhere:
        indexed = cells.join(listed_items(context), "item_id")
        context.write(ITEM_FEATURES, encode_cells(indexed, everywhere))
    words = item_words(cells, encoder)
    if words is not None:
        context.write(ITEM_WORDS, words)
    return {"n_new_items": n_new} | _count_without_features(context, cells)


def _count_without_features(context: StageContext, cells: DataFrame) -> dict[str, int]:
    """Count the items of which nothing is known; warn of them, and stop where these are all rated items."""
    n_rated = context.record("index")["n_items"]
    is_rated = F.col("item_index") < F.lit(n_rated)
    without = listed_items(context).join(context.read(ITEM_FEATURES), "item_id", "left_anti")
    row = without.agg(F.count_if(is_rated).alias("rated"), F.count_if(~is_rated).alias("new")).collect()[0]
    counts = {"n_without_features": int(row["rated"]), "n_new_without_features": int(row["new"])}
    if row["rated"] == n_rated:
        raise _nothing_known(context, cells)
    if row["rated"]:
        log.warning(
            f"item_features says nothing of {row['rated']:,} rated items: they are not in it, or no value of theirs "
            "could be encoded; to the models they are average",
            extra={"fields": {"items": row["rated"]}},
        )
    if row["new"]:
        log.warning(
            f"item_features has no value that could be encoded for {row['new']:,} items that nobody has rated: "
            "they are not listed as new",
            extra={"fields": {"items": row["new"]}},
        )
    return counts


def _nothing_known(context: StageContext, cells: DataFrame) -> ContractError:
    """Return why nothing is known of any rated item: none is in the table, or what it says of them has no column."""
    assert context.config.item_features is not None
    where, known = f"item_features: {context.config.item_features.path}", context.read(ITEM_INDEX)
    n_common = known.join(cells, "item_id", "left_semi").count()
    if n_common:
        return ContractError(
            "no rated item has a value that could be encoded",
            where=where,
            got=f"{n_common:,} rated items in the table",
            remedy="check the kinds of the features, separators and min_items; numbers that are all equal say nothing",
        )
    found, rated = (
        ", ".join(repr(row["item_id"]) for row in frame.select("item_id").orderBy("item_id").limit(3).collect())
        for frame in (cells, known)
    )
    return ContractError(
        "none of the rated items is in the feature table",
        where=where,
        got=found or "no items",
        allowed=f"items of the log, such as {rated}",
        remedy="set item_features.item to the column with the log's own ids: they are compared as text, exactly",
    )


def _count_rows(context: StageContext, rows: DataFrame, cells: DataFrame) -> dict[str, int]:
    """Count where the rows of the table went; warn of those that could not stand."""
    n_rows = rows.count()
    items = cells.agg(
        F.count("*").alias("n"), F.sum("n_rows").alias("rows"), F.count_if(F.col("n_rows") > 1).alias("m")
    )
    row = items.collect()[0]
    counts = {"n_rows": n_rows, "n_items": int(row["n"]), "n_rows_without_item": n_rows - int(row["rows"] or 0)}
    counts["n_items_of_several_rows"] = int(row["m"])
    told = {"n_rows_without_item": "rows without an item in one line are left out", "n_items_of_several_rows": (
        "items stand in several rows: of each column the first cell in order counts"
    )}  # fmt: skip
    for name, text in told.items():
        if counts[name]:
            log.warning(f"item_features: {counts[name]:,} {text}", extra={"fields": {name: counts[name]}})
    context.progress.say(f"features: {counts['n_items']:,} items have features", n_items=counts["n_items"])
    return counts


def _tell(
    context: StageContext,
    config: ItemFeaturesConfig,
    encoder: Encoder,
    found: dict[str, CellStatistics],
    earlier: dict[str, FeatureEncoding],
) -> list[dict[str, Any]]:
    """Say what the cells of each feature are like, and how far they are from those that were published before."""
    told = []
    for feature in encoder.features:
        statistics, reference = found[feature.name], earlier.get(feature.name)
        drift = None if reference is None else reference.drift(statistics)
        told.append(_tell_one(context, feature, statistics, drift, config.drift_threshold))
    return told


def _tell_one(
    context: StageContext, feature: FeatureEncoding, found: CellStatistics, drift: float | None, threshold: float
) -> dict[str, Any]:
    n_left_out, n_uses = feature.left_out(found)
    one = {
        "name": feature.name,
        "kind": feature.kind,
        "width": feature.width,
        "n_missing": found.n_missing,
        "n_unreadable": found.n_unreadable,
        "n_unknown_values": n_left_out,
        "n_uses_of_unknown_values": n_uses,
        # JSON has no infinity: a column that was constant has no unit to measure by.
        "drift": None if drift is None or math.isinf(drift) else drift,
        "has_drifted": drift is not None and drift > threshold,
    }
    context.progress.say(
        f"features: {feature.name} ({feature.kind}): {feature.width:,} columns, missing for {found.n_missing:,} items"
        + (f", {n_left_out:,} values without a column, used {n_uses:,} times" if n_left_out else ""),
        **one,
    )
    _warn_of_cells(feature, found)
    if one["has_drifted"]:
        unit = "standard deviations of its mean" if feature.kind == "numeric" else "of its values' shares"
        log.warning(
            f"item_features.{feature.name} has drifted by {drift:.3g} {unit} since the table of the published encoder",
            extra={"fields": {"feature": feature.name, "drift": one["drift"]}},
        )
    return one


def _warn_of_cells(feature: FeatureEncoding, found: CellStatistics) -> None:
    """Warn of cells that may be meant otherwise than they are taken."""
    lists = [value for value in feature.values if value.startswith(('["', "[]"))]
    most, told = feature.settings.get("max_values"), list[tuple[int, str]]()
    if most is not None and found.n_frequent > most:
        told.append(
            (found.n_frequent, f"values have min_items items or more; {most:,} have columns, the most frequent")
        )
    if feature.kind == "categorical" and lists:
        told.append((len(lists), f"values are lists, such as {lists[0]}; kind: multi_valued takes them apart"))
    if found.n_unreadable:
        told.append((found.n_unreadable, "cells are no numbers; they count as missing"))
    if found.n_items and not feature.says_something:
        why = {"numeric": "two different numbers", "text": "words"}.get(feature.kind, "a value of min_items items")
        told.append((found.n_items, f"items and not {why}: the column says nothing of any"))
    for count, text in told:
        log.warning(
            f"item_features.{feature.name}: {count:,} {text}", extra={"fields": {"feature": feature.name, "n": count}}
        )
