"""The section of the configuration about what a table has to reach before readers see it."""

from __future__ import annotations

from pydantic import Field

from recsys_spark.config.section import Section


class GateConfig(Section):
    """Limits of a table beside being free of faults, against the run that readers see and popularity; null: none.

    A limit is broken where its value is beyond it by more than the 95% interval, and one of a held-out metric where
    nothing was measured. `--force` publishes nevertheless.
    """

    max_lost_users: float | None = Field(
        default=None, ge=0, le=1, description="share of the current table's users who no longer have a list"
    )
    max_short_lists: float | None = Field(default=None, ge=0, le=1, description="share of lists shorter than asked for")
    min_overlap: float | None = Field(
        default=None, ge=0, le=1, description="mean rank-biased overlap with the current lists of the same users"
    )
    max_changed_positions: float | None = Field(
        default=None, ge=0, le=1, description="share of places that hold another item than in the current lists"
    )
    metric: str = Field(
        default="ndcg", pattern="^(ndcg|recall|precision)$", description="the held-out metric of the two limits below"
    )
    max_metric_loss: float | None = Field(
        default=None, ge=0, le=1, description="how much lower the metric may be than that of the current run"
    )
    min_gain_over_popularity: float | None = Field(
        default=None, ge=-1, le=1, description="how much higher the metric has to be than that of popular items"
    )
    oracle_share: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="share of users whose lists are computed again in double precision (at least 20 users, at most "
        "1,000); 0: none",
    )

    @property
    def needs_metrics(self) -> bool:
        """Whether a limit is about held-out metrics."""
        return self.max_metric_loss is not None or self.min_gain_over_popularity is not None
