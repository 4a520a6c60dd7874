"""A first configuration, guessed from a sample of a log: what ``recsys-spark init`` writes."""
