"""User and item ids -> dense int32 indexes, and the ratings in terms of them."""

from recsys_spark.index.dense_index import write_dense_index

__all__ = ["write_dense_index"]
