"""The vectors of a published model, in the indexes of a new run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame

from recsys_spark.errors import RecsysError
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.sealed_files import table_faults
from recsys_spark.storage import read_json
from recsys_spark.tables import ITEM_FACTORS, ITEM_INDEX, USER_FACTORS, USER_INDEX, Table
from recsys_spark.train.exchange import Known

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.runs.run_directory import Run, StageContext


def published_vectors(context: StageContext) -> Known | None:
    """Return the vectors of the newest published model, as rows of (index, factors, bias) in this run's indexes.

    Where there is none, or it was trained for another loss, rank or with other biases, says so and returns
    None: a changed setting should not stop the night's run.

    Notes
    -----
    One join per side, by id, made where the rows are used; here they are counted.
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
    known = {
        USERS: _rows(context, run, USERS, USER_INDEX, USER_FACTORS),
        ITEMS: _rows(context, run, ITEMS, ITEM_INDEX, ITEM_FACTORS),
    }
    n_users, n_items = (known[side].count() for side in (USERS, ITEMS))
    context.progress.say(
        f"train: started from run {run.run_id}: {n_users:,} users and {n_items:,} items are known", warm_run=run.run_id
    )
    return known


def _newest(context: StageContext) -> Run | None:
    root = context.run.root
    entries = [entry.newest(root) for entry in publications(root, context.storage)]
    for run in reversed(list(dict.fromkeys(run for run in entries if run != context.run))):
        if not context.storage.exists(run.manifest_path):
            continue
        faults = _faults(context, run)
        if not faults:
            return run
        # A night should not fail for what happened to the files of another.
        context.progress.say(f"train: not started from run {run.run_id}: {faults[0]}")
    return None


def _faults(context: StageContext, run: Run) -> list[str]:
    try:
        return [f for table in (USER_FACTORS, ITEM_FACTORS) for f in table_faults(run, table.name, context.storage)]
    except (RecsysError, OSError, ValueError, KeyError) as error:
        return [str(error).partition("\n")[0]]


def _rows(context: StageContext, run: Run, side: Side, index: Table, factors: Table) -> DataFrame:
    id_name = index.key[0]
    old = factors.read(context.spark, run.table_path(factors)).select(id_name, "factors", "bias")
    return context.read(index).join(old, id_name).select(side.rows, "factors", "bias")
