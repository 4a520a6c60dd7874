"""What a run is told: one section per stage, each field with its meaning and limits."""

from recsys_spark.config.run_config import (
    PipelineConfig,
    TrainConfig,
)

__all__ = [
    "PipelineConfig",
    "TrainConfig",
]
