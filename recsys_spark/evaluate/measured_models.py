"""The models that are measured: fitted to the training part alone, with the same settings as the published one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.config import TrainConfig
from recsys_spark.evaluate.held_out_ratings import HeldOutRatings
from recsys_spark.evaluate.splits import FOLD_IN
from recsys_spark.features import training_features
from recsys_spark.kernels.hot_rows import find_hot_rows
from recsys_spark.rating_blocks import ITEMS, USERS, choose_n_blocks
from recsys_spark.recommend import Candidates
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.session import default_parallelism
from recsys_spark.shared_value import shared
from recsys_spark.storage import join
from recsys_spark.tables import FOLDED_FACTORS
from recsys_spark.train import (
    Continuation,
    Factorization,
    SeveralFits,
    fit_model,
    fold_in_input,
    fold_in_users,
    further_observations,
    latest_time,
    observation_key,
)


def fit_measured(context: StageContext, parts: HeldOutRatings, config: TrainConfig, title: str) -> Factorization:
    """Fit a model to the training part; users who are held out get vectors from what may be known of them.

    Parameters
    ----------
    context : StageContext
    parts : HeldOutRatings
    config : TrainConfig
    title : str
        Names the fit in the progress, and its folder.

    Returns
    -------
    Factorization
    """
    model = fit_to(context, parts.training, config, title)
    return model if parts.counts[FOLD_IN] == 0 else _with_folded_users(context, parts, model, config, title)


def fit_together(
    context: StageContext, parts: HeldOutRatings, configs: dict[str, TrainConfig], like: Factorization
) -> dict[str, Factorization]:
    """Fit several models to the training part, side by side where they can be.

    Parameters
    ----------
    context : StageContext
    parts : HeldOutRatings
    configs : dict of str to TrainConfig
        By name of the model. As many iterations for all, at most.
    like : Factorization
        A model with as many factors as any of them, fitted to the same ratings: what fitted for it fits for them.

    Returns
    -------
    dict of str to Factorization
        Bit for bit as `fit_measured` gives them.

    Notes
    -----
    Side by side: ratings are blocked once, and one job per half-iteration solves the rows of all models; see
    ``train.SeveralFits``.
    """
    titles = {name: f"evaluate {name.replace('_', ' ')}" for name in configs}
    if not _can_share(list(configs.values()), like):
        return {name: fit_measured(context, parts, config, titles[name]) for name, config in configs.items()}
    assert like.plan is not None
    sizes, settings = context.record("index"), list(configs.values())
    fits = SeveralFits(
        context.spark,
        parts.training,
        settings[0],
        n_users=sizes["n_users"],
        n_items=sizes["n_items"],
        n_blocks=like.plan.n_blocks,
    )
    try:
        for number, config in enumerate(settings):
            fits.begin(number, config)
        fits.advance(fits.numbers, settings[0].iterations)
        models = {name: fits.model(number) for number, name in enumerate(configs)}
    finally:
        fits.release()
    context.progress.say(f"evaluate: fitted side by side: {', '.join(configs)}")
    if parts.counts[FOLD_IN] == 0:
        return models
    return {
        name: _with_folded_users(context, parts, model, configs[name], titles[name]) for name, model in models.items()
    }


def _can_share(configs: list[TrainConfig], like: Factorization) -> bool:
    """Return whether models can be fitted side by side: alike enough, with vectors on the driver and no hot rows."""
    if len(configs) < 2 or len({(observation_key(config), config.iterations) for config in configs}) > 1:
        return False
    are_plain = all(
        config.model == "factors"
        and config.updates == "alternating"
        and config.validation_share == 0
        and config.side_information is None
        for config in configs
    )
    is_replicated = like.plan is not None and like.plan.exchange == "replicate"
    hot = (find_hot_rows(degrees) for degrees in (like.user_degrees, like.item_degrees))
    return are_plain and is_replicated and not any(len(found.rows) for found in hot)


def fit_to(context: StageContext, training: DataFrame, config: TrainConfig, title: str) -> Factorization:
    """Fit a model to some ratings; for its title see `fit_measured`."""
    sizes = context.record("index")
    return fit_model(
        context.spark,
        training,
        config,
        n_users=sizes["n_users"],
        n_items=sizes["n_items"],
        progress=context.progress,
        title=title,
        continuation=Continuation(storage=context.storage, folder=_folder(context, title)),
        features=training_features(context, config),
    )


def _with_folded_users(
    context: StageContext, parts: HeldOutRatings, model: Factorization, config: TrainConfig, title: str
) -> Factorization:
    """Return the model with vectors of the held-out users, solved from their fold-in ratings of trained items."""
    index, vectors = model.trained_vectors(ITEMS)
    n_items = len(model.item_degrees)
    is_trained = np.zeros(n_items, np.bool_)
    is_trained[index] = True
    trained = context.spark.createDataFrame(pa.table({"item_index": index}))
    latest = latest_time(parts.training) if config.half_life_days is not None else None
    ratings = parts.fold_in.join(trained, "item_index", "left_semi")
    found = further_observations(ratings, config, model.global_mean, latest)
    n_blocks = choose_n_blocks(default_parallelism(context.spark), parts.counts[FOLD_IN])
    path = join(_folder(context, title), "folded")
    context.storage.remove(path)
    given = fold_in_input(index, vectors, n_items, config, model.global_mean, biases=model.biases)
    with shared(context.spark, given) as everywhere:
        fold_in_users(found, everywhere, n_blocks).write.parquet(path)
    folded = context.spark.read.schema(FOLDED_FACTORS.schema).parquet(path)
    rows = model.rows(context.spark, USERS)
    return replace(model, frames={**model.frames, USERS: rows.unionByName(folded.select(*rows.columns))})


def candidates_of(model: Factorization) -> Candidates:
    """Return the items that the training ratings know, labelled by index; their vectors come to the driver."""
    known, vectors = model.trained_vectors(ITEMS)
    candidates = Candidates.from_items(
        pa.array(known),
        known,
        vectors,
        model.item_degrees[known],
        n_items=len(model.item_degrees),
        global_mean=model.global_mean,
        biases=model.biases,
        as_probability=model.loss == "logistic",
    )
    return replace(candidates, neighbours=model.averages(candidates.column_of_index, len(known)))


def _folder(context: StageContext, title: str) -> str:
    return join(vectors_folder(context), title.replace(" ", "-"))


def vectors_folder(context: StageContext) -> str:
    """Return where the vectors of the fits lie that are not on the driver."""
    return join(context.run.path, "_evaluated_vectors")
