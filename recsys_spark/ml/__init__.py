"""``ALS`` and ``ALSModel`` of pyspark.ml, on this package's training and lists."""

from recsys_spark.ml.als import ALS
from recsys_spark.ml.als_model import ALSModel

__all__ = ["ALS", "ALSModel"]
