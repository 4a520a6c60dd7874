"""Guesses -> a configuration with a comment beside each of them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from recsys_spark.byte_sizes import human_size
from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ConfigError
from recsys_spark.ingest.headers import check_json_fields, csv_layouts, list_inputs
from recsys_spark.starter.guesses import Feedback, Guesses, guess
from recsys_spark.starter.sample import Sample, read_sample
from recsys_spark.storage import storage_for

_EXPLICIT = """\
  # What a user has not rated counts a little, as if rated 0. Without it, lists are the few items that everyone who met
  # them loved.
  unobserved_weight: 0.05
  reg_param: 0.01
  bias_reg_param: 0.01
  reg_exponent: 1.0"""
# Amounts that reach from one to thousands would drown the others as confidence (loss: implicit).
_COUNTS = """\
  # What counts is whether a user met an item. Every other pair counts this much, as if not liked.
  unobserved_weight: 0.1
  reg_param: 0.005
  reg_exponent: 1.0"""


def starter_config(path: str) -> str:
    """Return a commented configuration for a log, from a sample of it; without Spark.

    Parameters
    ----------
    path : str
        As ``input.path``, on this machine.

    Returns
    -------
    str
        YAML that is a valid configuration and whose columns are those of the files.

    Raises
    ------
    ConfigError
        If the log cannot be understood.
    """
    sample = read_sample(path)
    text = _render(path, sample, guess(sample))
    config = PipelineConfig.model_validate(yaml.safe_load(text))
    files = list_inputs(config.input)
    storage = storage_for(config.input.paths[0])
    # What the ingest stage would refuse later: files of the folder that differ from the one that was looked at.
    if config.input.format == "csv":
        csv_layouts(config.input, storage, files)
    elif config.input.format == "jsonl":
        check_json_fields(config.input, storage, files)
    size = human_size(sum(file.size for file in files))
    return text.replace("@FILES@", f"{len(files):,} file{'s' if len(files) > 1 else ''}, {size}")


def write_new(target: str, text: str) -> None:
    """Write a file that must not be there yet.

    Raises
    ------
    ConfigError
        If it is, or cannot be written.
    """
    try:
        with Path(target).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            "the configuration is there already, and is left as it is",
            where=target,
            remedy="give another name with --output, or remove it first",
        ) from None
    except OSError as error:
        raise ConfigError(
            "the configuration cannot be written",
            where=target,
            got=error.strerror or str(error),
            remedy="give another place with --output",
        ) from None


def name_of_log(path: str) -> str:
    """Return a name for the pipeline of a log: that of its file without endings."""
    stem = re.sub(
        r"(\.(csv|tsv|txt|dat|data|jsonl|json|parquet|gz|bz2|zst))+$", "", Path(path).name, flags=re.IGNORECASE
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "ratings"


def _render(path: str, sample: Sample, guesses: Guesses) -> str:
    name = name_of_log(path)
    looked_at = f"{sample.n_rows:,} rows of {Path(sample.file).name}"
    blocks = [
        f"# Guessed by recsys-spark init from {looked_at}.\n"
        "# Read the comments, and look before you run, with --dry-run. recsys-spark settings prints all settings.",
        f"name: {_scalar(name)}",
        _input_section(path, sample, guesses),
        _ingest_section(guesses),
        _train_section(guesses.feedback),
        _evaluate_section(guesses.feedback),
        f"output:\n  # Everything that runs write goes here.\n  path: {_scalar(f'runs/{name}')}",
    ]
    return "\n\n".join(blocks) + "\n"


def _input_section(path: str, sample: Sample, guesses: Guesses) -> str:
    lines = ["input:", "  # @FILES@", f"  path: {_scalar(path)}"]
    for setting, (value, why) in sample.settings.items():
        lines += [f"  # {_sentence(why)}", f"  {setting}: {_scalar(value)}"]
    lines.append("  columns:")
    for role in ("user", "item", "rating", "timestamp"):
        column, why = guesses.columns[role]
        lines += [f"    # {_sentence(why)}", f"    {role}: {_scalar(column)}"]
    if guesses.times is not None:
        lines += [f"  # {_sentence(guesses.times.why)}", f"  timestamp_format: {_scalar(guesses.times.format)}"]
    return "\n".join(lines)


def _ingest_section(guesses: Guesses) -> str:
    feedback, has_times = guesses.feedback, guesses.columns["timestamp"][0] is not None
    lines = ["ingest:"]
    if feedback.scale is not None:
        lines.append("  # The narrowest usual scale that holds the sample; ratings outside it are set aside.")
        if feedback.warning:
            lines.append(f"  # {_sentence(feedback.warning)}")
        lines.append(f"  rating_range: [{feedback.scale[0]:g}, {feedback.scale[1]:g}]")
    lines += _duplicates(feedback, has_times)
    if guesses.faulty_share > 0.02:
        # Half as much again: other days may be worse than the sample.
        allowed = min(0.95, math.ceil(guesses.faulty_share * 150) / 100)
        lines += [
            f"  # {guesses.faulty_share:.0%} of the sample has no user, item, rating or time, or is broken.",
            "  # A run stops if more than this is set aside: CHECK THIS, whether these rows may be left out.",
            f"  max_quarantined_share: {allowed:g}",
        ]
    return "\n".join(lines)


def _duplicates(feedback: Feedback, has_times: bool) -> list[str]:
    if feedback.kind in ("counts", "events"):
        lines = ["  # What a user did several times with an item is added up.", "  duplicates: sum"]
        if feedback.has_negatives:
            lines += [
                "  # Negative amounts, such as goods sent back, take back what was counted.",
                "  cancellations: true",
            ]
        return lines
    if has_times:
        return ["  # Of several ratings of one item by one user, the latest counts.", "  duplicates: last"]
    return ["  # Without event times none of several ratings is the last.", "  duplicates: mean"]


def _train_section(feedback: Feedback) -> str:
    lines = ["train:", f"  # {_sentence(feedback.why)}"]
    if feedback.kind == "ratings":
        lines += ["  # So these are ratings that people gave (explicit).", "  loss: squared", _EXPLICIT]
    elif feedback.kind == "labels":
        lines += ["  # So these are labels: liked or not.", "  loss: logistic"]
    else:
        lines += ["  # So these are traces of what people did (implicit).", "  loss: ials", _COUNTS]
    return "\n".join([*lines, "  rank: 32", "  iterations: 10"])


def _evaluate_section(feedback: Feedback) -> str:
    lines = ["evaluate:", "  # Of the ratings, kept back to measure on.", "  holdout_share: 0.1"]
    if feedback.scale is not None:
        lowest, highest = feedback.scale
        relevant = math.ceil(lowest + 0.75 * (highest - lowest))
        lines += ["  # From here up, a rating says that the item was liked.", f"  relevant_rating: {relevant:g}"]
    elif feedback.kind == "labels":
        lines += ["  relevant_rating: 1"]
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    """Return a value as YAML writes it on one line."""
    return yaml.safe_dump(value, allow_unicode=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _sentence(text: str) -> str:
    """Return a reason as a sentence on one line, whatever the file's names hold."""
    line = " ".join(text.split())
    return f"{line[:1].upper()}{line[1:]}."
