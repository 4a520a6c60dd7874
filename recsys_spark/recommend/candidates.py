"""The items that can be recommended: their labels, vectors and popularity, in the order that breaks ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array
from recsys_spark.kernels.neighbour_average import NeighbourAverages
from recsys_spark.recommend.popularity import SegmentPopularity
from recsys_spark.recommend.variety import BY_SCORE, Variety


@dataclass(frozen=True, slots=True)
class Candidates:
    """What every task needs to rank items; column ``c`` of the vectors is the item ``labels[c]``.

    Attributes
    ----------
    labels : Arrow array of n_items ids
        Ascending: among equal scores the lower label comes first.
    vectors : float32 array of shape (n_items, width)
    popularity : float32 array of shape (n_items,)
        Ratings per item.
    column_of_index : int32 array
        Item index -> column, -1 where the item is no candidate.
    global_mean : float
    biases : bool
    as_probability : bool
        Whether scores are log-odds, to be told as probabilities.
    segments : SegmentPopularity or None
        Popularity in segments of users.
    variety : Variety
        What beside the scores decides the lists.
    neighbours : NeighbourAverages or None
        Of a neighbourhood model: what is added to the scores, by column.
    is_new : bool array of shape (n_items,), or None
        Which items nobody has rated: their vectors are from features. None: no such items are among them.
    """

    labels: pa.Array
    vectors: Float32Array
    popularity: Float32Array
    column_of_index: Int32Array
    global_mean: float
    biases: bool
    as_probability: bool = False
    variety: Variety = BY_SCORE
    segments: SegmentPopularity | None = None
    neighbours: NeighbourAverages | None = None
    is_new: BoolArray | None = None

    def __repr__(self) -> str:
        """Return the sizes."""
        return f"Candidates: {len(self.labels):,} items, vectors of {self.vectors.shape[1]}"

    @classmethod
    def from_items(
        cls,
        labels: pa.Array,
        item_index: npt.NDArray[np.int32],
        vectors: Float32Array,
        popularity: npt.NDArray[np.generic],
        *,
        n_items: int,
        global_mean: float,
        biases: bool,
        as_probability: bool = False,
    ) -> Candidates:
        """Order items by label and number their columns.

        Parameters
        ----------
        labels : Arrow array
            Distinct, any order; strings are ordered by their UTF-8 bytes.
        item_index : int32 array
            Index of each item.
        vectors : float32 array of shape (len(labels), width)
        popularity : array
            Ratings of each item.
        n_items : int
            Size of the item index.
        global_mean : float
        biases : bool
        as_probability : bool
        """
        order = pc.sort_indices(labels).to_numpy()
        column_of_index = np.full(n_items, -1, np.int32)
        column_of_index[item_index[order]] = np.arange(len(order), dtype=np.int32)
        return cls(
            labels.take(pa.array(order)),
            np.ascontiguousarray(vectors[order], np.float32),
            popularity[order].astype(np.float32),
            column_of_index,
            global_mean,
            biases,
            as_probability,
        )
