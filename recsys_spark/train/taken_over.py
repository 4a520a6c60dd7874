"""The model of the run that readers see, taken over: items stay, and users whose ratings changed are solved anew.

A training moves all item factors, and with them every user's scores. Where a night should change only the lists of
users whose history changed, the items have to stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError, RecsysError
from recsys_spark.rating_blocks import choose_n_blocks
from recsys_spark.rating_split import split_ratings
from recsys_spark.redaction import redacted
from recsys_spark.row_difference import differing_rows
from recsys_spark.runs.publication_log import log_folder, publications
from recsys_spark.runs.sealed_files import table_faults
from recsys_spark.session import default_parallelism
from recsys_spark.shared_value import shared
from recsys_spark.storage import join, read_json
from recsys_spark.tables import CHANGED_USERS, ITEM_FACTORS, ITEM_INDEX, RATINGS, USER_FACTORS, USER_INDEX, Table
from recsys_spark.train.fold_in import fold_in_users, stored_fold_in_input
from recsys_spark.train.held_back import VALIDATION_SEED
from recsys_spark.train.observations import further_observations, latest_time
from recsys_spark.train.training_ratings import training_ratings

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.runs.run_directory import Run, StageContext

# How a model is reached, not which.
_ONLY_HOW = ("warm_start", "checkpoint_interval", "n_blocks", "exchange")
# What the train stage's record says of the model itself.
_OF_MODEL = ("global_mean", "population_bias", "biases", "loss", "rank", "label", "plan", "blocking_seconds", "history")
_RATING = ("user_id", "item_id", "rating", "weight", "timestamp")


def run_to_build_on(context: StageContext) -> Run:
    """Return the run that readers see, on which ``refresh: affected`` builds.

    Raises
    ------
    ConfigError
        If there is none.
    """
    root = context.run.root
    others = [run for entry in publications(root, context.storage) if (run := entry.run(root)) != context.run]
    if not others:
        raise ConfigError(
            "refresh: affected keeps what readers see where nothing changed, and nothing was published yet",
            where=log_folder(root),
            remedy="run the pipeline once with --refresh all; then there is something to build on",
        )
    return others[-1]


def take_over_model(context: StageContext) -> tuple[dict[str, Any] | None, str]:
    """Write the published item factors, and the user factors: as they were, or solved anew where ratings changed.

    A user whose ratings changed is solved to the end against the items as they are, which is the half-iteration that
    training would take next. Ratings of items that the model does not know take no part; they are counted and told.

    Returns
    -------
    record : dict or None
        What the train stage tells of the model; None: it has to be trained.
    why : str
        Then, why.

    Raises
    ------
    ConfigError
        If nothing was published.

    Notes
    -----
    One shuffle of both runs' ratings, all columns, to find who changed; one of the changed users' ratings as blocks;
    joins of the factors by id. The item factors come to the driver and go to every task.
    """
    base = run_to_build_on(context)
    why = _difference(context, base)
    if not why:
        try:
            _write_changed_users(context, base)
        except Exception as error:
            # What became of another run's files must not cost a night.
            context.storage.remove(context.run.table_path(CHANGED_USERS))
            why = f"its ratings cannot be compared: {str(error).strip().partition(chr(10))[0]}"
    if why:
        context.progress.say(f"train: the model of run {base.run_id} is not taken over: {why}")
        return None, why
    theirs = read_json(context.storage, base.stage_record("train"))
    context.write(ITEM_FACTORS, _known(context, base, ITEM_INDEX, ITEM_FACTORS))
    unknown = _count_unknown_items(context)
    _write_user_factors(context, base, theirs)
    before = theirs.get("taken_over")
    trained_in = before["trained_in"] if before else base.run_id
    n_changed = context.read(CHANGED_USERS).count()
    context.progress.say(
        f"train: the model of run {base.run_id} is taken over, with items as run {trained_in} has trained them; "
        f"{n_changed:,} users with other ratings than there are solved anew",
        taken_over=base.run_id,
        changed_users=n_changed,
    )
    record = {name: theirs.get(name) for name in _OF_MODEL}
    taken = {"run_id": base.run_id, "date": base.date, "trained_in": trained_in}
    return record | {"taken_over": taken, "why_trained": "", "changed_users": n_changed, **unknown}, ""


def _difference(context: StageContext, base: Run) -> str:
    """Say why a run's model cannot be taken over; empty: it can."""
    try:
        tables = (USER_FACTORS, ITEM_FACTORS, RATINGS)
        faults = [fault for table in tables for fault in table_faults(base, table.name, context.storage)]
        theirs = read_json(context.storage, join(base.path, "run.json"))["config"]["train"]
        read_json(context.storage, base.stage_record("train"))
    except (RecsysError, OSError, ValueError, KeyError) as error:
        faults = [str(error).partition("\n")[0]]
    if faults:
        return f"it is damaged: {faults[0]}"
    mine = redacted(context.config.train.model_dump(mode="json"))
    changed = [f"train.{name}" for name in mine if name not in _ONLY_HOW and mine[name] != theirs.get(name)]
    return f"it has another {', '.join(changed)}" if changed else ""


def _write_changed_users(context: StageContext, base: Run) -> None:
    """Write the run's users who have other ratings than in ``base``; by id, whatever became of the index."""
    before = RATINGS.read(context.spark, base.table_path(RATINGS)).select(*_RATING)
    changed = differing_rows(before, context.read(RATINGS).select(*_RATING)).select("user_id").distinct()
    context.write(CHANGED_USERS, changed.join(context.read(USER_INDEX), "user_id", "left_semi"))


def _known(context: StageContext, base: Run, index: Table, factors: Table) -> DataFrame:
    """Return another run's factors of the ids that this run has, under this run's numbers."""
    (number,) = (name for name in index.schema.names if name not in index.key)
    rows = factors.read(context.spark, base.table_path(factors)).drop(number)
    return rows.join(context.read(index), index.key[0])


def _write_user_factors(context: StageContext, base: Run, model: dict[str, Any]) -> None:
    config, changed = context.config.train, context.read(CHANGED_USERS)
    ratings = training_ratings(context)
    latest = latest_time(ratings) if config.half_life_days is not None else None
    of_changed = ratings.join(changed.join(context.read(USER_INDEX), "user_id"), "user_index", "left_semi")
    known = of_changed.join(context.read(ITEM_FACTORS), "item_index", "left_semi")
    found = further_observations(known, config, model["global_mean"], latest)
    if config.validation_share > 0:
        # What training would keep back: a later one judges itself by the same ratings.
        found, _ = split_ratings(found, config.validation_share, VALIDATION_SEED)
    n_blocks = choose_n_blocks(default_parallelism(context.spark), context.record("index")["n_ratings"])
    with shared(context.spark, stored_fold_in_input(context, model)) as given:
        solved = fold_in_users(found, given, n_blocks).join(context.read(USER_INDEX), "user_index")
        kept = _known(context, base, USER_INDEX, USER_FACTORS).join(changed, "user_id", "left_anti")
        context.write(USER_FACTORS, kept.unionByName(solved))


def _count_unknown_items(context: StageContext) -> dict[str, int]:
    """Count ratings of items that the model does not know, and say so."""
    unknown = training_ratings(context).join(context.read(ITEM_FACTORS), "item_index", "left_anti")
    row = unknown.agg(F.count("*").alias("n"), F.count_distinct("item_index").alias("n_items")).collect()[0]
    if row["n"]:
        context.progress.say(
            f"train: {row['n']:,} ratings of {row['n_items']:,} items take no part: the model does not know them "
            "until it is trained again",
            ratings_of_unknown_items=row["n"],
        )
    return {"ratings_of_unknown_items": int(row["n"]), "unknown_items": int(row["n_items"])}
