"""The names of jobs, as Spark's own status store has them."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.job_labels import labelled_jobs
from recsys_spark.progress import Progress
from recsys_spark.train import fit_factors
from tests.train.test_fit_factors import N_ITEMS, N_USERS, frame, observations
from tests.train.test_standing_tasks import stand_for_long


def descriptions_of(spark: SparkSession, group: str) -> list[str]:
    """Return the descriptions of the jobs of a group, in the order of the jobs."""
    jobs = sorted(spark.sparkContext.statusTracker().getJobIdsForGroup(group))
    store = spark._jsc.sc().statusStore()
    return [store.job(job).description().get() for job in jobs]


@pytest.mark.parametrize("standing", [False, True])
def test_jobs_of_a_training_are_named_by_iteration_and_side(
    spark: SparkSession, standing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_for_long(monkeypatch)
    ratings = frame(spark, observations())
    config = TrainConfig(rank=2, iterations=2, tolerance=0.0, n_blocks=2, standing_tasks=standing)
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    with labelled_jobs(spark, "train", group=f"{standing}-run/train"):
        fit_factors(spark, ratings, config, progress=Progress(), title="train", **sizes)
    names = descriptions_of(spark, f"{standing}-run/train")
    steps = [f"train: iteration {n}, {side}" for n in (1, 2) for side in ("users", "items")]
    if standing:
        steps = [f"{steps[0]}, and what follows it"]
    assert [name for name in dict.fromkeys(names) if "iteration" in name] == steps
    assert set(names) <= {"train", "train: blocks of ratings", *steps}


def test_labels_end_with_their_block_even_after_an_error(spark: SparkSession) -> None:
    context = spark.sparkContext

    def labels() -> list[str | None]:
        return [context.getLocalProperty(name) for name in ("spark.jobGroup.id", "spark.job.description")]

    before = labels()
    with labelled_jobs(spark, "outer", group="run/stage"):
        try:
            with labelled_jobs(spark, "inner"):
                assert labels() == ["run/stage", "inner"]
                raise ZeroDivisionError
        except ZeroDivisionError:
            assert labels() == ["run/stage", "outer"]
    assert labels() == before
