"""Files wherever they are: local disks, HDFS, object stores; and what is built of them."""

from recsys_spark.storage.base import (
    FileStatus,
    LocalStorage,
    Storage,
    is_local,
    join,
    literal_path,
    local_path,
    read_json,
    storage_for,
)

__all__ = [
    "FileStatus",
    "LocalStorage",
    "Storage",
    "is_local",
    "join",
    "literal_path",
    "local_path",
    "read_json",
    "storage_for",
]
