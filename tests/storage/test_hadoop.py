"""The storage and the publication log on a file system that is not this machine's, and that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from pyspark.sql import SparkSession

from recsys_spark.chaos.campaign import ACTS, run_campaign
from recsys_spark.runs.publication_log import publications, publish_run
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import Storage, storage_for
from recsys_spark.storage.hadoop import HadoopStorage
from tests.fake_webhdfs import FAILS, FAILS_WHEN_DONE, WRITES_HALF, FileSystem, serving


@pytest.fixture
def remote(spark: SparkSession) -> Iterator[tuple[FileSystem, str]]:
    system = FileSystem()
    with serving(system) as uri:
        yield system, uri


def test_every_operation_works(spark: SparkSession, remote: tuple[FileSystem, str]) -> None:
    system, uri = remote
    storage: Storage = storage_for(uri, spark)
    assert isinstance(storage, HadoopStorage)
    path = f"{uri}/a/entry.json"
    assert not storage.exists(path)
    assert storage.create_if_absent(path, "first é")
    assert not storage.create_if_absent(path, "second")
    assert storage.read_text(path) == "first é"
    storage.write_text(path, "third")
    assert storage.read_bytes(path) == b"third"
    assert storage.list_names(f"{uri}/a") == ["entry.json"], "nothing temporary is left"
    (found,) = storage.find(f"{uri}/a")
    assert (found.path, found.size) == (path, 5)
    storage.remove(f"{uri}/a")
    assert storage.find(f"{uri}/a") == []
    assert storage.list_names(f"{uri}/a") == []
    storage.check_writable(f"{uri}/out")
    assert system.counts["RENAME"] <= 4


@pytest.mark.parametrize("fault", [FAILS, FAILS_WHEN_DONE, WRITES_HALF])
def test_whichever_request_fails_a_run_is_published_once(
    spark: SparkSession, remote: tuple[FileSystem, str], fault: str
) -> None:
    system, uri = remote
    storage = storage_for(uri, spark)
    publish_run(Run(f"{uri}/counted", "a", "2026-01-05"), storage)
    before = sum(system.counts.values())
    publish_run(Run(f"{uri}/counted", "b", "2026-01-05"), storage)
    n_requests = sum(system.counts.values()) - before
    assert n_requests >= 5
    for number in range(1, n_requests + 1):
        root = f"{uri}/{number}"
        publish_run(Run(root, "a", "2026-01-05"), storage)
        before = sum(system.counts.values())

        def fail(n: int, operation: str, path: str, due: int = before + number) -> str | None:
            return fault if n == due and (fault != WRITES_HALF or operation == "CREATE") else None

        system.fault = fail
        with suppress(Exception):
            publish_run(Run(root, "b", "2026-01-05"), storage)
        system.fault = lambda n, operation, path: None
        assert publications(root, storage)[-1].run_id in ("a", "b")
        publish_run(Run(root, "b", "2026-01-05"), storage)
        assert [entry.run_id for entry in publications(root, storage)] == ["a", "b"]


@pytest.mark.parametrize("fault", [FAILS, FAILS_WHEN_DONE, WRITES_HALF])
def test_whichever_request_fails_a_file_that_is_replaced_is_there_whole(
    spark: SparkSession, remote: tuple[FileSystem, str], fault: str
) -> None:
    system, uri = remote
    storage, path = storage_for(uri, spark), f"{uri}/a/manifest.json"
    storage.write_text(path, "old")
    system.counts.clear()
    storage.write_text(path, "new")
    assert system.counts["DELETE"] == 0, "it is never away"
    for number in range(1, sum(system.counts.values()) + 1):
        storage.write_text(path, "old")
        before = sum(system.counts.values())
        system.fault = lambda n, operation, path, due=before + number: fault if n == due else None
        with suppress(Exception):
            storage.write_text(path, "new")
        system.fault = lambda n, operation, path: None
        assert storage.read_text(path) in ("old", "new")


def test_publishing_takes_a_few_requests_however_long_each_takes(
    spark: SparkSession, remote: tuple[FileSystem, str]
) -> None:
    system, uri = remote
    storage = storage_for(uri, spark)
    for run_id in "abc":
        publish_run(Run(uri, run_id, "2026-01-05"), storage)
    system.counts.clear()
    system.latency = 0.02
    publish_run(Run(uri, "d", "2026-01-05"), storage)
    system.latency, counts = 0.0, system.counts.copy()
    assert [entry.run_id for entry in publications(uri, storage)] == list("abcd")
    # Every entry is read; the new one is created and moved.
    assert (counts["OPEN"], counts["CREATE"], counts["RENAME"], counts["DELETE"]) == (3, 1, 1, 0)
    assert counts.total() < 25


def test_slow_renames_and_double_listings_do_no_harm(spark: SparkSession, remote: tuple[FileSystem, str]) -> None:
    system, uri = remote
    system.slow_rename, system.lists_twice = 0.01, True
    storage = storage_for(uri, spark)
    for run_id in ("a", "b"):
        publish_run(Run(uri, run_id, "2026-01-05"), storage)
    assert [entry.run_id for entry in publications(uri, storage)] == ["a", "b"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_faults_of_a_rollback_are_survived(spark: SparkSession, remote: tuple[FileSystem, str]) -> None:
    # Each fault takes two nights over slow requests; those of publishing are hit one by one above.
    _, uri = remote
    acts = [act for act in ACTS if act.name == "rollback"]
    outcomes = list(run_campaign(storage_for(uri, spark), f"{uri}/x", most=1, acts=acts))
    assert [outcome for outcome in outcomes if outcome.failure] == []
    assert len(outcomes) > 10
