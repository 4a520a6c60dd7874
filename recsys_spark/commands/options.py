"""Options that several commands have, and the opening of the run that some of them work on."""

from __future__ import annotations

from typing import Literal

import click
from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ConfigError
from recsys_spark.pipeline import require_done
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import StageContext, open_run
from recsys_spark.storage import storage_for

config_option = click.option(
    "--config", "config_path", type=click.Path(), required=True, metavar="FILE", help="Pipeline configuration (YAML)."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Override one setting; repeatable."
)
log_format_option = click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)


def require_run_id(name: str, config_path: str, run_id: str | None) -> str:
    """Return the run that a command works on, or refuse to work on none; before Spark is started."""
    if run_id is None:
        raise ConfigError(
            f"{name} needs a run whose index stage is done, and none was named",
            remedy=f"recsys-spark ingest --config {config_path} --run-id NAME, the same with index, then {name}",
        )
    return run_id


def indexed_run(
    name: str, config: PipelineConfig, spark: SparkSession, run_id: str, log_format: Literal["text", "json"]
) -> StageContext:
    """Open a run whose index stage is done."""
    storage = storage_for(config.output.path, spark)
    run = open_run(config.output.path, storage, run_id=run_id, first_stage=name, interval=None)
    require_done(name, ("ingest", "index"), run, storage)
    return StageContext(spark, config, run, storage, Progress.for_stream(log_format))
