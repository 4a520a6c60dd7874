"""Which exchange a training uses: the one that is configured, or else ``replicate`` where it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from recsys_spark.errors import ConfigError
from recsys_spark.kernels.arrays import IntArray
from recsys_spark.session import SessionLimits
from recsys_spark.train.route_plan import plan_route
from recsys_spark.train.training_plan import TrainingPlan, plan_training, refuse_what_cannot_fit

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig


class ExchangePlans(NamedTuple):
    """The plan of one training with either exchange."""

    replicate: TrainingPlan
    route: TrainingPlan


def plan_exchanges(
    config: TrainConfig,
    user_degrees: IntArray,
    item_degrees: IntArray,
    n_blocks: int,
    limits: SessionLimits,
    *,
    weighted: bool,
) -> ExchangePlans:
    """Predict what a training takes with either exchange; for the parameters see ``plan_training``."""
    replicated = plan_training(config, user_degrees, item_degrees, n_blocks, limits, weighted=weighted)
    return ExchangePlans(replicated, plan_route(config, replicated, user_degrees, item_degrees))


def choose_exchange(config: TrainConfig, plans: ExchangePlans, *, has_storage: bool) -> tuple[TrainingPlan, str]:
    """Choose an exchange that fits.

    ``replicate`` sends every vector to every worker and has fewest steps; it is taken where it fits. ``route``
    sends each block what it needs, and is taken where ``replicate`` does not fit.

    Parameters
    ----------
    config : TrainConfig
    plans : ExchangePlans
    has_storage : bool
        Whether there is a place for routed vectors.

    Returns
    -------
    plan : TrainingPlan
    reason : str
        Why it is this one.

    Raises
    ------
    ConfigError
        If what is configured does not fit, or nothing does.
    """
    if config.exchange == "replicate":
        refuse_what_cannot_fit(plans.replicate)
        return plans.replicate, "as configured"
    if config.exchange == "route":
        if not has_storage:
            raise ConfigError("exchange: route needs a place for its vectors", remedy="set train.exchange: replicate")
        refuse_what_cannot_fit(plans.route)
        return plans.route, "as configured"
    try:
        refuse_what_cannot_fit(plans.replicate)
    except ConfigError as error:
        if not has_storage or config.updates == "simultaneous":
            raise
        refuse_what_cannot_fit(plans.route)
        return plans.route, f"replicate does not fit: {str(error).splitlines()[0]}"
    return plans.replicate, "the vectors fit whole into every worker"
