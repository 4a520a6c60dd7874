"""Settings of the search for better settings."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import pydantic
from pydantic import Field, model_validator

from recsys_spark.config.section import Section


class TuneSpace(Section):
    """What is tried: the values of each setting of ``train`` that is named; the others stay as they are."""

    loss: tuple[Literal["squared", "implicit", "ials", "logistic"], ...] | None = None
    rank: tuple[int, ...] | None = None
    reg_param: tuple[float, ...] | None = None
    reg_exponent: tuple[float, ...] | None = None
    bias_reg_param: tuple[float, ...] | None = None
    unobserved_weight: tuple[float, ...] | None = None
    alpha: tuple[float, ...] | None = None
    half_life_days: tuple[float, ...] | None = None

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_values(self) -> TuneSpace:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} needs at least one value, and none twice")
        return self

    def grid(self) -> list[dict[str, Any]]:
        """Return all combinations, in the order of the settings above."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        named = {name: values for name, values in named.items() if values is not None}
        return [dict(zip(named, values, strict=True)) for values in itertools.product(*named.values())]


class TuneConfig(Section):
    """What ``recsys-spark tune`` looks for; the held-out ratings of ``evaluate`` have no part in it."""

    method: Literal["grid", "random", "halving"] = Field(
        default="halving",
        description="grid: all combinations; random: some of them; halving: some begin, and after every rung only the "
        "best go on",
    )
    space: TuneSpace = TuneSpace()
    trials: int = Field(default=20, ge=1, le=10_000, description="random, halving: combinations that are tried")
    metric: Literal["ndcg", "recall", "precision", "hit_rate", "map", "mrr", "rmse"] = Field(
        default="ndcg", description="of lists of evaluate.n items by score alone; rmse: of predicted ratings"
    )
    holdout_share: float = Field(
        default=0.1, gt=0.0, le=0.9, description="share of the training ratings that judges the settings"
    )
    first_iterations: int = Field(default=3, ge=1, le=1000, description="halving: iterations of the first rung")
    keep_share: float = Field(default=0.34, gt=0.0, lt=1.0, description="halving: share that goes on after a rung")
    at_once: int = Field(default=8, ge=1, le=1000, description="settings fitted in one job; their vectors share memory")
    seed: int = Field(default=0, ge=0, lt=2**31)
