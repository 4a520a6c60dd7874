"""User and item ids -> dense int32 indexes, and the ratings in terms of them."""

from recsys_spark.index.dense_index import write_dense_index
from recsys_spark.index.id_index import index_faults, index_folder, index_version

__all__ = ["index_faults", "index_folder", "index_version", "write_dense_index"]
