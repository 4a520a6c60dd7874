"""Raw rating log -> ``ratings`` and ``quarantine``, with every row accounted for."""
