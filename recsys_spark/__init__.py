"""A distributed batch recommender on Spark: rating logs in, top-N tables out."""

__version__ = "0.1.0"
