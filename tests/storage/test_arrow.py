"""Object stores without a JVM: pyarrow's own file system, against a server that speaks S3's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from recsys_spark import published
from recsys_spark.arrow_file_system import arrow_file_system
from recsys_spark.chaos.campaign import ACTS, run_campaign
from recsys_spark.errors import ConfigError
from recsys_spark.runs.publication_log import publications, publish_run
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import Storage, base, storage_for
from recsys_spark.storage.arrow import ArrowStorage

ROOT = "s3a://nights/out"


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        system, _ = arrow_file_system("s3://nights?allow_bucket_creation=true")
        system.create_dir("nights")
        yield
    server.stop()


@pytest.fixture
def storage(bucket: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """The storage that a client of Spark Connect gets; a session is asked for nothing else."""
    monkeypatch.setattr(base, "is_connect", lambda session: True)
    session: Any = SimpleNamespace()
    found = storage_for(ROOT, session)
    assert isinstance(found, ArrowStorage)
    yield found
    found.remove(ROOT)


def test_every_operation_works_on_an_object_store(storage: Storage) -> None:
    path = f"{ROOT}/a b/entry.json"
    assert not storage.exists(path)
    assert storage.create_if_absent(path, "first é")
    assert not storage.create_if_absent(path, "second")
    assert storage.read_text(path) == "first é"
    storage.write_text(path, "third")
    assert storage.read_bytes(path) == b"third"
    assert storage.list_names(f"{ROOT}/a b") == ["entry.json"]
    (found,) = storage.find(ROOT)
    assert (found.path, found.size) == (path, 5)
    assert found.modified > 1.7e9
    assert [file.path for file in storage.find(f"{ROOT}/*/entry.*")] == [path]
    assert [file.path for file in storage.find(f"{ROOT}/a*")] == [path]
    assert storage.find(f"{ROOT}/b*") == storage.find(f"{ROOT}/absent") == []
    storage.remove(f"{ROOT}/a b")
    assert not storage.exists(path)
    assert storage.list_names(f"{ROOT}/absent") == []
    storage.check_writable(f"{ROOT}/new")


def test_what_is_published_there_is_read_with_pyarrow_alone(storage: Storage) -> None:
    run = Run(ROOT, "a", "2026-01-05")
    system, inside = arrow_file_system(run.path)
    expected = pa.table({"user_id": ["u"]})
    pq.write_table(expected, f"{inside}/recommendations/part-0.parquet", filesystem=system)
    storage.write_text(
        run.manifest_path, '{"files": {"recommendations": [{"path": "recommendations/part-0.parquet"}]}}'
    )
    publish_run(run, storage)
    publish_run(run, storage)
    assert [entry.run_id for entry in publications(ROOT, storage)] == ["a"]
    assert published.read_current_table(ROOT).equals(expected)


def test_a_bucket_that_is_not_there_is_named(bucket: None) -> None:
    with pytest.raises(ConfigError, match="the output path cannot be written") as caught:
        ArrowStorage("s3a://nowhere/out").check_writable("s3a://nowhere/out")
    assert "s3a://nowhere/out" in str(caught.value)


def test_a_file_system_that_pyarrow_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="which cannot reach these") as caught:
        ArrowStorage("wasbs://container@account/out")
    assert "run the job by spark-submit" in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_faults_of_a_night_are_survived_on_an_object_store(storage: Storage) -> None:
    nights = [act for act in ACTS if act.name in ("a further night", "rollback")]
    outcomes = list(run_campaign(storage, f"{ROOT}/x", most=1, acts=nights))
    assert [outcome for outcome in outcomes if outcome.failure] == []
    assert len(outcomes) > 20
