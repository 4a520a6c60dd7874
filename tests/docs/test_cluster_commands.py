"""The commands for clusters that no test can reach, read by Spark's own parser and by the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark.cli import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cluster.md"


def blocks(heading: str) -> list[str]:
    """Return the blocks of one part of the page, each with its continued lines joined."""
    text = PAGE.read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in re.findall(r"^```\n(.*?)^```", part, re.MULTILINE | re.DOTALL)]


def submitted(heading: str) -> list[str]:
    """Return the words that the page gives to spark-submit, with something in the place of ``<what is yours>``."""
    (command,) = [line for block in blocks(heading) for line in block.splitlines() if line.startswith(("spark", "aws"))]
    words = shlex.split(re.sub(r"<(\w+)>", r"\1", command))
    if words[0] == "aws":
        (step,) = [word for word in words if word.startswith("Type=Spark")]
        return str(re.search(r"Args=\[(.*)\]", step)[1]).split(",")  # type: ignore[index]
    assert words[0] == "spark-submit"
    return words[1:]


def taken(command: str, words: list[str]) -> dict[str, Any]:
    """Return what the command line makes of a job's words; raises where it does not know one."""
    with cli.commands[command].make_context(command, words) as context:
        found: dict[str, Any] = context.params
    return found


@pytest.mark.parametrize(
    ("heading", "master", "mode"),
    [
        ("Standalone", "spark://master:7077", "client"),
        ("YARN", "yarn", "cluster"),
        ("EMR", None, "cluster"),
        ("Kubernetes", "k8s://https://server:6443", "cluster"),
    ],
)
def test_spark_and_the_job_take_their_arguments(
    spark: SparkSession, heading: str, master: str | None, mode: str
) -> None:
    words = submitted(heading)
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    # EMR's and YARN's machines have it.
    environment = jvm.PythonUtils.toScalaMap({"HADOOP_CONF_DIR": "/etc/hadoop/conf"})
    parsed = jvm.org.apache.spark.deploy.SparkSubmitArguments(jvm.PythonUtils.toSeq(words), environment)
    assert parsed.deployMode() in ((mode, None) if mode == "client" else (mode,))
    assert master is None or parsed.maybeMaster().get() == master
    assert parsed.isPython()
    job = parsed.primaryResource().rpartition("/")[2]
    assert (ROOT / "jobs" / job).is_file()
    given = list(parsed.childArgs().mkString("\n").split("\n"))
    assert taken(job.removesuffix(".py"), given)["config_path"].endswith("mine.yaml")
    archives = parsed.archives()
    if archives is not None:
        # What is unpacked under the name behind `#` is the Python of driver and executors.
        pythons = [word.rpartition("=")[2] for word in words if "PYSPARK_PYTHON=" in word]
        assert pythons == [f"./{archives.partition('#')[2]}/bin/python"] * 2


def test_the_task_of_databricks_is_the_console_script() -> None:
    (block,) = blocks("Databricks")
    (task,) = yaml.safe_load(block)["tasks"]
    wheel = task["python_wheel_task"]
    scripts = re.search(r"^\[project.scripts\]\n(\S+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert scripts is not None
    assert wheel["entry_point"] == scripts[1]
    command, *words = wheel["parameters"]
    assert taken(command, [word.replace("{{job.trigger.time.iso_date}}", "2026-01-05") for word in words])
    assert task["libraries"][0]["whl"].endswith("-py3-none-any.whl")
