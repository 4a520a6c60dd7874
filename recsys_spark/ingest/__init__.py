"""Raw rating log -> ``ratings`` and ``quarantine``, with every row accounted for."""

from recsys_spark.ingest.stage import ingest_new_ratings

__all__ = ["ingest_new_ratings"]
