"""The section of the configuration about ratings that are kept from run to run."""

from __future__ import annotations

from pydantic import Field

from recsys_spark.config.section import Section


class HistoryConfig(Section):
    """Ratings kept from run to run by event date: a run reads what its interval needs, and merges it with the rest."""

    max_attempts: int = Field(
        default=5, ge=1, le=100, description="how often a run tries again where another run has written first"
    )
