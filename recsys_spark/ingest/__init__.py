"""Raw rating log -> ``ratings`` and ``quarantine``, with every row accounted for."""

from recsys_spark.ingest.history import FORGOTTEN, history_folder
from recsys_spark.ingest.stage import ingest_new_ratings

__all__ = ["FORGOTTEN", "history_folder", "ingest_new_ratings"]
