"""The table that readers see now, for programs that use it: with Spark, or with pyarrow alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs

from recsys_spark.arrow_file_system import arrow_file_system

if TYPE_CHECKING:
    # Programs that read with pyarrow have no Spark.
    from pyspark.sql import DataFrame, SparkSession

_ENTRY = re.compile(r"^\d{8}\.json$")


def read_current(spark: SparkSession, uri: str, table: str = "recommendations") -> DataFrame:
    """Read a table of the run that readers see.

    Parameters
    ----------
    spark : SparkSession
    uri : str
        The ``output.path`` of the pipeline.
    table : str
        Such as ``recommendations``, ``recommendation_rows``, ``similar_items``.

    Returns
    -------
    DataFrame
        Of the files that the run's manifest names, and no others. What is published later does not change it.

    Raises
    ------
    ConfigError
        If nothing was published there, or the run has no such table.
    """
    from recsys_spark.errors import ConfigError
    from recsys_spark.runs.publication_log import current_publication
    from recsys_spark.storage import join, literal_path, read_json, storage_for

    storage = storage_for(uri, spark)
    run = current_publication(uri, storage).run(uri)
    files = read_json(storage, run.manifest_path)["files"].get(table)
    if not files:
        raise ConfigError("the current run has no such table", where=run.path, got=table)
    return spark.read.parquet(*[literal_path(join(run.path, file["path"])) for file in files])


def read_current_table(
    uri: str, table: str = "recommendations", *, columns: list[str] | None = None, filter: ds.Expression | None = None
) -> pa.Table:
    """Read a table of the run that readers see, without Spark.

    Parameters
    ----------
    uri : str
        The ``output.path`` of the pipeline: a path, or a URI of a file system that pyarrow knows.
    table : str
    columns : list of str, optional
    filter : pyarrow.dataset.Expression, optional
        Such as ``pyarrow.dataset.field("user_id") == "6775"``: of tables by user, one row group is read.

    Raises
    ------
    FileNotFoundError
        If nothing was published there, or the run has no such table.
    """
    system, root = arrow_file_system(uri)
    entry = _current_entry(system, root)
    run = f"{root}/runs/date={entry['date']}/run={entry['run_id']}"
    files = _read_json(system, f"{run}/manifest.json")["files"].get(table)
    if not files:
        raise FileNotFoundError(f"run {entry['run_id']} has no table {table!r}")
    paths = [f"{run}/{file['path']}" for file in files]
    found: pa.Table = ds.dataset(paths, filesystem=system, format="parquet").to_table(columns=columns, filter=filter)
    return found


def _current_entry(system: pa_fs.FileSystem, root: str) -> dict[str, Any]:
    listed = system.get_file_info(pa_fs.FileSelector(f"{root}/publication_log", allow_not_found=True))
    names = sorted(info.base_name for info in listed if _ENTRY.match(info.base_name))
    if not names:
        raise FileNotFoundError(f"nothing was published under {root}")
    for name in reversed(names):
        try:
            entry = _read_json(system, f"{root}/publication_log/{name}")
        except ValueError:
            continue
        # What readers saw before a damaged entry is whole.
        if isinstance(entry, dict) and {"run_id", "date"} <= entry.keys():
            return entry
    raise FileNotFoundError(f"every entry of {root}/publication_log is damaged")


def _read_json(system: pa_fs.FileSystem, path: str) -> dict[str, Any]:
    with system.open_input_stream(path) as stream:
        content: dict[str, Any] = json.loads(stream.read())
        return content
