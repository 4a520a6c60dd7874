"""What Spark's pages and event log call the jobs of a run: a group per stage, a description per step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from recsys_spark.session import is_connect

_GROUP, _DESCRIPTION = "spark.jobGroup.id", "spark.job.description"


@contextmanager
def labelled_jobs(spark: SparkSession | None, description: str, *, group: str | None = None) -> Iterator[None]:
    """Describe the jobs that this thread starts within the ``with`` block; the innermost description counts.

    Parameters
    ----------
    spark : SparkSession or None
        Over Spark Connect nothing happens: a client has no place for labels. None: there are no jobs.
    description : str
        What a person sees beside the job.
    group : str, optional
        Collects jobs, for the status tracker and to cancel them; by default that of the block around.

    Notes
    -----
    Two calls of the driver's JVM on the way in and two on the way out, no job.
    """
    if spark is None or is_connect(spark):
        yield
        return
    context = spark.sparkContext
    labels = {_DESCRIPTION: description} if group is None else {_DESCRIPTION: description, _GROUP: group}
    before = {name: context.getLocalProperty(name) for name in labels}
    for name, value in labels.items():
        context.setLocalProperty(name, value)
    try:
        yield
    finally:
        for name, earlier in before.items():
            # None takes the property away again.
            context.setLocalProperty(name, earlier)  # type: ignore[arg-type]


def current_label(spark: SparkSession) -> str | None:
    """Return the description of the jobs that this thread starts now; not for Spark Connect."""
    return spark.sparkContext.getLocalProperty(_DESCRIPTION)
