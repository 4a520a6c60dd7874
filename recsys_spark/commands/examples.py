"""Examples for the help of every command."""

from __future__ import annotations

import click

from recsys_spark.commands.end import EXIT_CODES

_CONF = "--config conf/mine.yaml"
_RUN = f"{_CONF} --run-id 2026-01-05"
EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("init ratings.csv.gz", "init logs/ --output conf/mine.yaml"),
    "doctor": ("doctor", f"doctor {_CONF} --json"),
    "completion": ("completion bash",),
    "pipeline": (
        f"pipeline {_CONF} --dry-run",
        f"pipeline {_RUN} --date 2026-01-05",
        f"pipeline {_CONF} --set train.rank=64 --set evaluate.holdout_share=0.2",
    ),
    "ingest": (f"ingest {_RUN}", f"ingest {_CONF} --start 2026-01-01 --end 2026-02-01"),
    "index": (f"index {_RUN}",),
    "features": (f"features {_RUN}",),
    "train": (f"train {_RUN}", f"train {_RUN} --resume --log-format json"),
    "recommend": (f"recommend {_RUN}",),
    "evaluate": (f"evaluate {_RUN}",),
    "publish": (f"publish {_RUN}", f"publish {_RUN} --force"),
    "report": (f"report 2026-01-05 {_CONF}", f"report {_CONF} --compare 2026-01-04 2026-01-05"),
    "export-metrics": (f"export-metrics 2026-01-05 {_CONF}",),
    "show": (f"show 6775 {_CONF}",),
    "similar": (f"similar 2 {_CONF}", f"similar 6775 --users {_CONF}"),
    "why": (f"why 6775 {_CONF}", f"why 6775 --item 2 {_CONF}"),
    "plan": (f"plan {_RUN} --set train.rank=128",),
    "tune": (f"tune {_RUN} --output conf/best.yaml",),
    "settings": ("settings",),
    "runs": (f"runs {_CONF}", f"runs {_CONF} --format json"),
    "diff": (f"diff 2026-01-04 2026-01-05 {_CONF}",),
    "rollback": (f"rollback {_CONF}", f"rollback 2026-01-04 {_CONF}"),
    "pin": (f"pin {_CONF}",),
    "unpin": (f"unpin {_CONF}",),
    "gc": (f"gc --keep 7 --dry-run {_CONF}",),
    "verify": (f"verify {_CONF}",),
    "forget": (f"forget 6775 {_CONF}",),
    "chaos": ("chaos", f"chaos {_CONF}"),
}


def add_examples(group: click.Group) -> None:
    """Put examples and the exit codes at the end of every command's help."""
    for name, command in group.commands.items():
        lines = "\n".join(f"  recsys-spark {example}" for example in EXAMPLES[name])
        # \b: click leaves the lines of that paragraph as they are.
        command.epilog = f"\b\nExamples:\n{lines}\n\n{EXIT_CODES}"
