"""The vectors of a published model, in the indexes of a new run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array
from recsys_spark.publication_log import publications
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.storage import read_json
from recsys_spark.tables import ITEM_FACTORS, ITEM_INDEX, USER_FACTORS, USER_INDEX, Table
from recsys_spark.train.model import Vectors

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.run_directory import Run, StageContext


def published_vectors(context: StageContext) -> Vectors | None:
    """Return the vectors of the newest published model, zero for users and items that it does not know.

    Where there is none, or it was trained for another loss, rank or with other biases, says so and returns
    None: a changed setting should not stop the night's run.

    Notes
    -----
    One join per side, by id; both sides come to the driver.
    """
    run = _newest(context)
    if run is None:
        context.progress.say("train: nothing was published yet, so there is no model to start from")
        return None
    config = context.config.train
    theirs = read_json(context.storage, run.stage_record("train"))
    mine = {"loss": config.loss, "rank": config.rank, "biases": config.uses_biases}
    changed = [f"{name} {theirs.get(name)} is now {value}" for name, value in mine.items() if theirs.get(name) != value]
    if changed:
        context.progress.say(f"train: not started from run {run.run_id}: {', '.join(changed)}")
        return None
    sizes = context.record("index")
    users = _vectors(context, run, USERS, USER_INDEX, USER_FACTORS, sizes["n_users"])
    items = _vectors(context, run, ITEMS, ITEM_INDEX, ITEM_FACTORS, sizes["n_items"])
    n_users, n_items = (int(side.any(axis=1).sum()) for side in (users, items))
    context.progress.say(
        f"train: started from run {run.run_id}: {n_users:,} users and {n_items:,} items are known", warm_run=run.run_id
    )
    return Vectors(users, items)


def _newest(context: StageContext) -> Run | None:
    root = context.run.root
    entries = [entry.run(root) for entry in publications(root, context.storage)]
    others = [run for run in entries if run != context.run]
    return others[-1] if others else None


def _vectors(context: StageContext, run: Run, side: Side, index: Table, factors: Table, n_rows: int) -> Float32Array:
    id_name = index.key[0]
    old: DataFrame = factors.read(context.spark, run.table_path(factors)).select(id_name, "factors", "bias")
    rows = context.read(index).join(old, id_name).select(side.rows, "factors", "bias").toArrow().combine_chunks()
    config = context.config.train
    vectors = np.zeros((n_rows, config.rank + config.uses_biases), np.float32)
    if rows.num_rows:
        columns = (rows[name].combine_chunks() for name in ("factors", "bias"))
        vectors[rows[side.rows].to_numpy()] = vectors_from_columns(*columns, biases=config.uses_biases)
    return vectors
