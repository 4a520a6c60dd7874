"""Nights up to their lists, sealed and published without the gate: cheap ones for tests of what comes after."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.pipeline import run_stages, stages
from recsys_spark.progress import Progress
from recsys_spark.publish.manifest import write_manifest
from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.storage import LocalStorage

DATE = "2026-01-05"


def context_of(spark: SparkSession, config: PipelineConfig, run_id: str) -> StageContext:
    """Return the context of a run."""
    return StageContext(spark, config, Run(config.output.path, run_id, DATE), LocalStorage(), Progress())


def make_lists(context: StageContext) -> Run:
    """Do a night up to its lists; return its run."""
    run_stages(context, stages(("ingest", "index", "features", "train", "recommend")))
    return context.run


def publish_unchecked(context: StageContext) -> Run:
    """Do a night up to its lists and show them to readers; return its run."""
    run = make_lists(context)
    write_manifest(context, {})
    publish_run(run, context.storage)
    return run


def with_output(config: PipelineConfig, path: Path) -> PipelineConfig:
    """Return the same configuration for another output path."""
    return config.model_copy(update={"output": config.output.model_copy(update={"path": str(path)})})
