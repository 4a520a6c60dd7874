"""What the gate thinks of a faultless table: its values beside the configured limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark.errors import ContractError

if TYPE_CHECKING:
    from recsys_spark.config.gate import GateConfig
    from recsys_spark.publish.churn import Churn

_95_PERCENT = 1.959964


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean of values between 0 and 1, over n users."""

    value: float
    n: int

    @property
    def variance(self) -> float:
        """The largest variance that the mean can have: that of zeros and ones."""
        return self.value * (1 - self.value) / self.n if self.n else math.inf


@dataclass(frozen=True, slots=True)
class Limit:
    """One value of a table beside its limit.

    Attributes
    ----------
    name : str
        The setting.
    value, margin : float
        What was found, and half of its 95% interval; 0 where it was counted.
    limit : float or None
        None: the value is only told.
    is_broken : bool
        A value that is no number breaks every limit.
    """

    name: str
    value: float
    margin: float
    limit: float | None
    is_broken: bool


def at_most(name: str, value: float, limit: float | None, margin: float = 0.0) -> Limit:
    """Return a value that must not be above its limit."""
    is_broken = limit is not None and not value - _known(margin) <= limit
    return Limit(name, value, margin, limit, is_broken)


def at_least(name: str, value: float, limit: float | None, margin: float = 0.0) -> Limit:
    """Return a value that must not be below its limit."""
    is_broken = limit is not None and not value + _known(margin) >= limit
    return Limit(name, value, margin, limit, is_broken)


def _known(margin: float) -> float:
    return 0.0 if math.isnan(margin) else margin


def limits_of_lists(config: GateConfig, n_lists: int, n_short: int) -> list[Limit]:
    """Compare a table with what holds of any."""
    return [at_most("max_short_lists", n_short / n_lists if n_lists else 0.0, config.max_short_lists)]


def limits_of_churn(config: GateConfig, churn: Churn, n_users_before: int) -> list[Limit]:
    """Compare a table with the one that readers see; ``churn`` of all users."""
    lost = 1 - churn.users / n_users_before if n_users_before else 0.0
    return [
        at_most("max_lost_users", lost, config.max_lost_users),
        at_least("min_overlap", churn.overlap, config.min_overlap, churn.overlap_margin),
        at_most("max_changed_positions", churn.changed_positions, config.max_changed_positions),
    ]


def limits_of_metrics(
    config: GateConfig,
    mine: Mapping[str, Measured],
    popularity: Mapping[str, Measured],
    current: Mapping[str, Measured],
) -> list[Limit]:
    """Compare a run's held-out metric with that of popular items, and with that of the run that readers see.

    Parameters
    ----------
    config : GateConfig
    mine, popularity, current : mapping
        Metric, without the length of the lists, to what was measured; empty where nothing was. What was not measured
        of this run breaks the limits that are about it: nobody knows whether it would keep them.

    Notes
    -----
    Two means are compared as if they were independent and as uncertain as values between 0 and 1 can be, which is on
    the safe side: a limit is broken only where the difference is beyond doubt.
    """
    own = mine.get(config.metric)
    found = []
    if (other := popularity.get(config.metric)) is not None and own is not None:
        gain, margin = own.value - other.value, _margin(own, other)
        found.append(at_least("min_gain_over_popularity", gain, config.min_gain_over_popularity, margin))
    elif config.min_gain_over_popularity is not None:
        found.append(at_least("min_gain_over_popularity", math.nan, config.min_gain_over_popularity))
    if (other := current.get(config.metric)) is not None:
        loss, margin = (math.nan, 0.0) if own is None else (other.value - own.value, _margin(own, other))
        if own is not None or config.max_metric_loss is not None:
            found.append(at_most("max_metric_loss", loss, config.max_metric_loss, margin))
    return found


def require_limits(limits: list[Limit], where: str, *, force: bool) -> list[str]:
    """Return the broken limits by name, or refuse them unless they are forced.

    Raises
    ------
    ContractError
        If there are any, and they are not.
    """
    broken = [limit for limit in limits if limit.is_broken]
    if broken and not force:
        raise ContractError(
            "a table is beyond the limits of the gate; readers keep what they have",
            where=where,
            got="; ".join(_describe(limit) for limit in broken),
            allowed="; ".join(f"gate.{limit.name}: {limit.limit:g}" for limit in broken),
            remedy="see recsys-spark diff; if the table is good, run publish again with --force, which leaves a mark",
        )
    return [limit.name for limit in broken]


def _describe(limit: Limit) -> str:
    if math.isnan(limit.value):
        return f"{limit.name.partition('_')[2].replace('_', ' ')} was not measured (read what evaluate has said of it)"
    margin = f" ± {limit.margin:.4g}" if limit.margin else ""
    return f"{limit.name.partition('_')[2].replace('_', ' ')} {limit.value:.4g}{margin}"


def _margin(a: Measured, b: Measured) -> float:
    return _95_PERCENT * math.sqrt(a.variance + b.variance)
