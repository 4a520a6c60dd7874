"""The train stage: ``indexed_ratings`` in, ``user_factors`` and ``item_factors`` out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pyspark.sql import functions as F

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError, RowError
from recsys_spark.features import training_features
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.runs.run_directory import StageContext, code_fingerprint
from recsys_spark.storage import join
from recsys_spark.tables import (
    CHANGED_USERS,
    FEATURE_WEIGHTS,
    ITEM_FACTORS,
    ITEM_INDEX,
    NEIGHBOURHOODS,
    USER_FACTORS,
    USER_INDEX,
    USER_WEIGHTS,
)
from recsys_spark.train.alternating import Continuation
from recsys_spark.train.checkpoints import Checkpoints
from recsys_spark.train.feature_regression import FeatureModel
from recsys_spark.train.fit import fit_model
from recsys_spark.train.model import Factorization
from recsys_spark.train.neighbourhoods import NeighbourModel
from recsys_spark.train.taken_over import take_over_model
from recsys_spark.train.training_ratings import training_ratings
from recsys_spark.train.warm_start import published_vectors

TABLES = (USER_FACTORS, ITEM_FACTORS, NEIGHBOURHOODS, USER_WEIGHTS, FEATURE_WEIGHTS, CHANGED_USERS)
# What decides the result of an iteration: a change elsewhere need not cost the iterations done so far.
_CODE = ("kernels", "train", "rating_blocks.py")


def run(context: StageContext) -> dict[str, Any]:
    """Fit the model to all ratings and write both sides' factors.

    With ``refresh: affected``, the published model is taken over instead where it can be, see `take_over_model`.
    Of a neighbourhood model, these are means, and there are neighbours; of a regression on features, there are weights.

    Shuffles: one per side's blocks, and one join per side with its index.

    Returns
    -------
    dict
        ``global_mean``, ``biases``, ``rank``, a label for people, the objective of every half-iteration, and the
        plan beside what the training took; whose model was taken over, or why none was.
    """
    config = context.config.train
    taken, why_trained = take_over_model(context) if context.config.refresh == "affected" else (None, "refresh: all")
    if taken is not None:
        return taken
    sizes = context.record("index")
    _warn_about_rank(context, min(sizes["n_users"], sizes["n_items"]))
    try:
        model = fit_model(
            context.spark,
            training_ratings(context),
            config,
            n_users=sizes["n_users"],
            n_items=sizes["n_items"],
            progress=context.progress,
            continuation=_continuation(context),
            features=training_features(context, config),
        )
    except RowError as error:
        raise _with_id(context, error) from error
    _write_factors(context, model)
    for folder in (_checkpoint_folder(context), _routed_folder(context)):
        context.storage.remove(folder)
    population = model.population if isinstance(model, FeatureModel) else None
    return {
        "global_mean": model.global_mean,
        "population_bias": population.bias if population is not None else None,
        "biases": model.biases,
        "loss": model.loss,
        "rank": model.rank,
        "label": _label(config, model),
        "blocking_seconds": round(model.blocking_seconds, 3),
        "plan": _predicted_beside_actual(model),
        "history": [asdict(step) for step in model.history],
        "taken_over": None,
        "why_trained": why_trained,
    }


def _label(config: TrainConfig, model: Factorization) -> str:
    if config.model == "factors":
        return f"{config.loss}, rank {config.rank}"
    if config.model == "feature_regression":
        return f"{config.model}, {config.loss}, {model.rank} features"
    return f"{config.model}, {config.knn.similarity}, k {config.knn.k}"


def _continuation(context: StageContext) -> Continuation:
    config = context.config.train
    checkpoints = _checkpoints(context)
    if context.must_resume and (checkpoints is None or checkpoints.latest() is None):
        raise ConfigError(
            "there is no checkpoint to go on from",
            where=_checkpoint_folder(context),
            remedy="run again without --resume to train from the beginning",
        )
    known = published_vectors(context) if config.warm_start else None
    code = code_fingerprint(_CODE)
    return Continuation(checkpoints, code, context.must_resume, known, context.storage, _routed_folder(context))


def _routed_folder(context: StageContext) -> str:
    return join(context.run.path, "_routed_vectors")


def _checkpoint_folder(context: StageContext) -> str:
    return join(context.run.path, "_checkpoints")


def _checkpoints(context: StageContext) -> Checkpoints | None:
    interval = context.config.train.checkpoint_interval
    if interval is None:
        return None
    return Checkpoints(context.storage, _checkpoint_folder(context), interval)


def _predicted_beside_actual(model: Factorization) -> dict[str, Any]:
    return {
        "predicted": model.plan.as_dict() if model.plan else None,
        "actual": asdict(model.footprint) if model.footprint else None,
    }


def _warn_about_rank(context: StageContext, smaller_side: int) -> None:
    if context.config.train.model == "factors" and context.config.train.rank > smaller_side:
        context.progress.say(
            f"train: rank {context.config.train.rank} is more than the smaller side's {smaller_side} rows; the "
            f"regularisation keeps the result well defined, but a rank of {smaller_side} could say the same"
        )


def _with_id(context: StageContext, error: RowError) -> RowError:
    """Return the error with the caller's own id of the row."""
    index = context.read(USER_INDEX if error.side == "users" else ITEM_INDEX)
    id_name, index_name = index.columns
    found = index.where(F.col(index_name) == error.row).head()
    return RowError(str(error), error.side, error.row, where=f"{id_name} {found[0]!r}" if found else "")


def _write_factors(context: StageContext, model: Factorization) -> None:
    for side, index, table in ((USERS, USER_INDEX, USER_FACTORS), (ITEMS, ITEM_INDEX, ITEM_FACTORS)):
        rows = model.rows(context.spark, side)
        if isinstance(model, FeatureModel):
            # Features give vectors to items of the index without ratings too; they are listed as new, or not at all.
            rows = rows.where(F.col("n_ratings") > 0)
        context.write(table, context.read(index).join(rows, side.rows))
    if isinstance(model, FeatureModel):
        _write_weights(context, model)
    if isinstance(model, NeighbourModel) and model.neighbourhoods is not None:
        context.write(NEIGHBOURHOODS, model.neighbourhoods.frame)


def _write_weights(context: StageContext, model: FeatureModel) -> None:
    """Write every user's weights, and those of the population by the features' names."""
    users = model.rows(context.spark, USERS).select("user_index", "intercept", "weights")
    context.write(USER_WEIGHTS, context.read(USER_INDEX).join(users, "user_index"))
    assert model.population is not None
    weights = [float(weight) for weight in model.population.weights]
    rows = list(zip(range(len(weights)), model.column_names, weights, strict=True))
    context.write(FEATURE_WEIGHTS, context.spark.createDataFrame(rows, FEATURE_WEIGHTS.schema))
