"""The feature table -> encoded features of every item, by an encoder that is saved with the run."""

from recsys_spark.features.item_features import (
    ItemFeatures,
    listed_items,
    n_listed_items,
    read_encoder,
    read_item_features,
    require_room_for_dense,
    require_room_for_regression,
    training_features,
)
from recsys_spark.features.item_words import words_by_column

__all__ = [
    "ItemFeatures",
    "listed_items",
    "n_listed_items",
    "read_encoder",
    "read_item_features",
    "require_room_for_dense",
    "require_room_for_regression",
    "training_features",
    "words_by_column",
]
