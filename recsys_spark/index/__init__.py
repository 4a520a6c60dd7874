"""User and item ids -> dense int32 indexes, and the ratings in terms of them."""

from recsys_spark.index.dense_index import write_dense_index
from recsys_spark.index.id_index import index_faults, index_folder, index_version, part_faults, version_log
from recsys_spark.index.mended_index import mend_index, seal_parts

__all__ = [
    "index_faults",
    "index_folder",
    "index_version",
    "mend_index",
    "part_faults",
    "seal_parts",
    "version_log",
    "write_dense_index",
]
