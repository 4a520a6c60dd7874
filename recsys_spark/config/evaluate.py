"""Settings of the evaluation: what is held out, and what is measured on it."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import pydantic
from pydantic import Field, model_validator

from recsys_spark.config.neighbours import KnnConfig
from recsys_spark.config.section import Section


class RatingModelConfig(Section):
    """Where ``train.unobserved_weight`` makes scores other than ratings: the fit whose rating errors are told."""

    reg_param: float = Field(default=3.0, gt=0, le=1e9)
    reg_exponent: float = Field(default=0.3, ge=0, le=2)
    bias_reg_param: float = Field(default=3.0, gt=0, le=1e9)


class EvaluateConfig(Section):
    """Held-out ratings, and what is measured on them."""

    split: Literal["random", "last_k", "time", "users", "items"] = Field(
        default="random",
        description="what is held out: random ratings; the last ones of each user; all from a day on; users, whose "
        "vectors come from a part of their ratings; items",
    )
    holdout_share: float = Field(
        default=0.1, ge=0.0, le=0.9, description="of ratings, users or items; last_k: any above 0; 0: no evaluation"
    )
    last_k: int = Field(default=1, ge=1, le=1000, description="last_k: ratings of each user that has more than these")
    from_day: date | None = Field(
        default=None, description="time: the first day (UTC) that is held out; null: by holdout_share, whole days"
    )
    fold_in_share: float = Field(
        default=0.8, gt=0, lt=1, description="users: share of a held-out user's ratings that the vector is solved from"
    )
    n: int = Field(default=10, ge=1, le=1000, description="length of the lists that the headline measures are about")
    at: tuple[int, ...] = Field(
        default=(5, 20), description="further lengths at which lists are measured, as far as recommend.mmr.pool reaches"
    )
    relevant_rating: float | None = Field(
        default=None,
        description="held-out ratings from here up count as hits; null: those from train.positive_threshold up, else "
        "of labels the ones, for implicit and ials those above 0, of ratings all",
    )
    sampled_negatives: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="also rank each hit among so many random items, for comparison with papers that do; null: no",
    )
    holdout_items_share: float = Field(
        default=0.0,
        ge=0.0,
        le=0.9,
        description="share of the items that another fit does not see, to measure lists of new items; 0: not measured",
    )
    recent_days: float = Field(
        default=30, gt=0, le=1e6, description="popularity_recent counts the ratings of the last so many days"
    )
    item_knn: bool = Field(
        default=False, description="also fit item_knn as a baseline; it may take longer than all else"
    )
    knn: KnnConfig = Field(default=KnnConfig(), description="of that baseline")
    activity_bounds: tuple[int, ...] = Field(
        default=(10, 50), description="training ratings at which a further group of users begins, ascending"
    )
    replicates: int = Field(
        default=200, ge=0, le=10_000, description="bootstrap replicates of the users, for 95% intervals; 0: none"
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    rating_model: RatingModelConfig = RatingModelConfig()

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths at which lists are measured, ascending."""
        return tuple(sorted({self.n, *self.at}))

    @pydantic.field_validator("from_day", mode="before")
    @classmethod
    def _read_day(cls, value: Any) -> Any:
        # In quotes, or in the configuration that a run has stored, YAML leaves a date as text.
        return date.fromisoformat(value) if isinstance(value, str) else value

    @pydantic.field_validator("at", "activity_bounds", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_lists(self) -> EvaluateConfig:
        if any(not 1 <= length <= 1000 for length in self.at):
            raise ValueError("at: lengths of lists are from 1 to 1000")
        bounds = self.activity_bounds
        if list(bounds) != sorted({*bounds}) or any(bound < 1 for bound in bounds):
            raise ValueError("activity_bounds must be ascending and at least 1")
        for name, split in {"from_day": "time", "last_k": "last_k", "fold_in_share": "users"}.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.split != split:
                raise ValueError(f"{name} is for split: {split}")
        if self.knn != KnnConfig() and not self.item_knn:
            raise ValueError("knn is for item_knn: true")
        if self.holdout_items_share > 0 and self.holdout_share == 0:
            raise ValueError("holdout_items_share needs holdout_share above 0: with 0, nothing is measured")
        return self
