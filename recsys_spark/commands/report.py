"""Commands that show a run: its page, two runs side by side, and its numbers for a monitoring system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from recsys_spark.commands.options import config_option, set_option
from recsys_spark.config import PipelineConfig
from recsys_spark.config.file import load_config
from recsys_spark.errors import ConfigError
from recsys_spark.progress import Progress, configure_logging
from recsys_spark.report.open_metrics import open_metrics
from recsys_spark.report.page import compare_page, run_page
from recsys_spark.report.page_data import gather
from recsys_spark.report.stage import data_path, page_path
from recsys_spark.runs.run_directory import STAGES, Run, StageContext, find_runs, safe_run_id
from recsys_spark.session import build_session
from recsys_spark.storage import Storage, is_local, join, read_json, storage_for

_OUTPUT = click.option("--output", metavar="FILE", help="Write there, on this machine or any storage.")


@click.command()
@click.argument("run_id", metavar="RUN", required=False)
@click.option("--compare", nargs=2, metavar="RUN_A RUN_B", help="Two runs side by side, instead of one.")
@config_option
@set_option
@_OUTPUT
def report(
    run_id: str | None, compare: tuple[str, str] | None, config_path: str, overrides: Sequence[str], output: str | None
) -> None:
    """Write the HTML page of a run, or of two runs side by side; nothing in it is loaded from elsewhere.

    The page goes into the run's directory, as the pipeline writes it; a comparison, into that of RUN_B. A run that has
    no page yet, such as one that the gate has stopped, is looked up in its tables first.
    """
    if (run_id is None) == (compare is None):
        raise ConfigError("report takes one run, or --compare with two", remedy="recsys-spark report RUN --config FILE")
    runs = _Runs(config_path, overrides)
    if compare is not None:
        a, b = (runs.find(name) for name in compare)
        text = compare_page(runs.data(a), runs.data(b))
        target = output or join(b.path, f"report-beside-{a.run_id}.html")
    else:
        run = runs.find(str(run_id))
        text, target = run_page(runs.data(run)), output or page_path(run)
    storage_for(target, runs.spark).write_text(target, text)
    click.echo(target)


@click.command("export-metrics")
@click.argument("run_id", metavar="RUN")
@config_option
@set_option
@_OUTPUT
def export_metrics(run_id: str, config_path: str, overrides: Sequence[str], output: str | None) -> None:
    """Print the numbers of a run as OpenMetrics text: rows, times, measures with intervals, and what they beat.

    With --output they replace a file whole, as a collector of text files wants it.
    """
    runs = _Runs(config_path, overrides)
    run = runs.find(run_id)
    text = open_metrics(read_json(runs.storage, join(run.path, "run.json")), runs.records(run))
    if output is None:
        click.echo(text, nl=False)
    else:
        storage_for(output, runs.spark).write_text(output, text)


class _Runs:
    """The runs of a configuration; Spark is started only where files or tables need it."""

    def __init__(self, config_path: str, overrides: Sequence[str]) -> None:
        configure_logging("text")
        self.config = load_config(config_path, overrides)
        self.root = self.config.output.path
        self.spark = None if is_local(self.root) else self._session()
        self.storage: Storage = storage_for(self.root, self.spark)

    def _session(self) -> Any:
        return build_session(f"recsys-report-{self.config.name}")

    def find(self, run_id: str) -> Run:
        """Return the newest run of that name."""
        known = find_runs(self.root, self.storage)
        found = [run for run in known if run.run_id in (run_id, safe_run_id(run_id))]
        if not found:
            raise ConfigError(
                "there is no such run",
                where=self.root,
                got=run_id,
                allowed=", ".join(run.run_id for run in known[-5:]) or "there are no runs yet",
            )
        return found[-1]

    def records(self, run: Run) -> dict[str, dict[str, Any]]:
        """Return what the stages that are done have written down."""
        done = [stage for stage in STAGES if self.storage.exists(run.stage_record(stage))]
        return {stage: read_json(self.storage, run.stage_record(stage)) for stage in done}

    def data(self, run: Run) -> dict[str, Any]:
        """Return the data of a run's page: as they were written, or looked up in its tables."""
        if self.storage.exists(data_path(run)):
            data: dict[str, Any] = read_json(self.storage, data_path(run))
            return data
        self.spark = self.spark or self._session()
        stored = read_json(self.storage, join(run.path, "run.json"))["config"]
        config = PipelineConfig.model_validate(stored)
        looked_up = gather(StageContext(self.spark, config, run, self.storage, Progress()))
        return dict(json.loads(json.dumps(looked_up)))
