"""The estimator: MLlib's ``ALS`` by name, params and defaults, fitted by this package's training."""

from __future__ import annotations

import threading
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pyspark import keyword_only
from pyspark.ml.base import Estimator
from pyspark.ml.util import DefaultParamsReadable
from pyspark.sql import DataFrame

from recsys_spark.errors import ConfigError, NumericalError, RowError
from recsys_spark.factor_tables import factor_table
from recsys_spark.ml.als_model import ALSModel
from recsys_spark.ml.fitted import FittedFactors
from recsys_spark.ml.ids import NumberedIds
from recsys_spark.ml.params import ALSParams, in_params
from recsys_spark.ml.ratings import IndexedRatings, indexed_ratings
from recsys_spark.ml.saved import ParamsWritable
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import USERS
from recsys_spark.train import Factorization, fit_factors

# A fit changes settings of the session and uses all cores: those that CrossValidator starts together take turns.
_ONE_AT_A_TIME = threading.Lock()


class ALS(Estimator[ALSModel], ALSParams, ParamsWritable, DefaultParamsReadable["ALS"]):
    """Alternating least squares, to be used in the place of ``pyspark.ml.recommendation.ALS``.

    Equal params give MLlib's objective, with explicit ratings::

        sum_observed (r_ui - x_u . y_i)^2 + regParam (sum_u n_u |x_u|^2 + sum_i n_i |y_i|^2)

    where n counts the ratings of a row; with ``implicitPrefs``, preference 1 for ratings above 0, else 0, at the
    confidence ``1 + alpha |r_ui|`` where something was observed and 1 everywhere else (Hu, Koren, Volinsky 2008,
    doi:10.1109/ICDM.2008.22).

    Parameters
    ----------
    rank, maxIter, regParam, implicitPrefs, alpha, nonnegative, seed
        As MLlib's. ``regParam`` has to be above 0, ``maxIter`` at least 1.
    userCol, itemCol : str
        Columns of whole numbers of any numeric type, beyond 32 bits too, or of strings.
    ratingCol : str
        Numeric column; empty: every row is a rating of 1.
    coldStartStrategy : {"nan", "drop"}
        For rows of ``transform`` whose user or item is unknown.
    numUserBlocks, numItemBlocks : int
        Where either is set, the larger is the number of blocks of both sides; the result does not depend on it.
    intermediateStorageLevel : str
        Of the ratings, during training.
    checkpointInterval, finalStorageLevel, blockSize
        Are there, and change nothing.
    regExponent : float
        Penalties are times ``n ** regExponent``; MLlib's is 1.
    biases : bool
        Adds a mean, and a bias of the user and of the item, to explicit predictions.
    unobservedWeight : float
        Adds the squared score of every pair at this weight, which makes lists from explicit ratings better.
    tol : float
        Stops when an iteration lowers the objective by less than this share.
    solver : {"auto", "cholesky", "dual", "cg", "subspace", "gradient"}

    Notes
    -----
    `fit` checks the dataset in one pass. Both sides' factors and ids are on the driver; see `fit_factors` and
    `indexed_ratings` for shuffles. The factors are the same bit for bit for any number of partitions and blocks.
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
        regExponent: float = 1.0,
        biases: bool = False,
        unobservedWeight: float = 0.0,
        tol: float = 0.0,
        solver: str = "auto",
    ) -> None:
        super().__init__()
        self.setParams(**self._input_kwargs)

    def __repr__(self) -> str:
        """Return the uid and the params that were set."""
        chosen = self._described()
        return f"{self.uid}({chosen})"

    def _fit(self, dataset: DataFrame) -> ALSModel:
        self.drops_unknown()
        config = self.train_config()
        with _ONE_AT_A_TIME, indexed_ratings(dataset, self) as ratings:
            try:
                fitted = fit_factors(
                    dataset.sparkSession,
                    ratings.frame,
                    config,
                    n_users=len(ratings.users),
                    n_items=len(ratings.items),
                    progress=Progress(),
                    title=self.uid,
                )
            except RowError as error:
                numbered = ratings.users if error.side == USERS.name else ratings.items
                where = f"{error.side[:-1]} {numbered.ids[error.row].as_py()!r}"
                raise RowError(in_params(str(error)), error.side, error.row, where=where) from error
            except (ConfigError, NumericalError) as error:
                raise type(error)(in_params(str(error))) from error
            model = ALSModel(_factors(dataset, fitted, ratings))
        return self._copyValues(model._resetUid(self.uid))

    def setRank(self, value: int) -> Self:
        """Set the number of factors."""
        return self._set(rank=value)

    def setMaxIter(self, value: int) -> Self:
        """Set the number of iterations."""
        return self._set(maxIter=value)

    def setRegParam(self, value: float) -> Self:
        """Set the penalty."""
        return self._set(regParam=value)

    def setNumUserBlocks(self, value: int) -> Self:
        """Set the number of blocks of users."""
        return self._set(numUserBlocks=value)

    def setNumItemBlocks(self, value: int) -> Self:
        """Set the number of blocks of items."""
        return self._set(numItemBlocks=value)

    def setNumBlocks(self, value: int) -> Self:
        """Set the number of blocks of both sides."""
        return self._set(numUserBlocks=value, numItemBlocks=value)

    def setImplicitPrefs(self, value: bool) -> Self:
        """Set whether ratings are strengths of what was observed."""
        return self._set(implicitPrefs=value)

    def setAlpha(self, value: float) -> Self:
        """Set the confidence that an implicit rating of 1 adds."""
        return self._set(alpha=value)

    def setRatingCol(self, value: str) -> Self:
        """Set the column of ratings."""
        return self._set(ratingCol=value)

    def setNonnegative(self, value: bool) -> Self:
        """Set whether all factors are at or above 0."""
        return self._set(nonnegative=value)

    def setCheckpointInterval(self, value: int) -> Self:
        """Set a param of MLlib's that changes nothing here."""
        return self._set(checkpointInterval=value)

    def setIntermediateStorageLevel(self, value: str) -> Self:
        """Set where ratings are cached during training."""
        return self._set(intermediateStorageLevel=value)

    def setFinalStorageLevel(self, value: str) -> Self:
        """Set a param of MLlib's that changes nothing here."""
        return self._set(finalStorageLevel=value)

    def setSeed(self, value: int) -> Self:
        """Set what the first factors are drawn from."""
        return self._set(seed=value)

    def setRegExponent(self, value: float) -> Self:
        """Set how the penalty of a row grows with its number of ratings."""
        return self._set(regExponent=value)

    def setBiases(self, value: bool) -> Self:
        """Set whether predictions have a mean and biases."""
        return self._set(biases=value)

    def setUnobservedWeight(self, value: float) -> Self:
        """Set the weight of every pair's squared score."""
        return self._set(unobservedWeight=value)

    def setTol(self, value: float) -> Self:
        """Set the share of the objective below which training stops."""
        return self._set(tol=value)

    def setSolver(self, value: str) -> Self:
        """Set how rows are solved."""
        return self._set(solver=value)


def _factors(dataset: DataFrame, fitted: Factorization, ratings: IndexedRatings) -> FittedFactors:
    def table(numbered: NumberedIds, vectors: Any, degrees: Any) -> DataFrame:
        # All ids: one whose ratings are all left out has a vector, of zeros, as in MLlib.
        everybody = np.arange(len(numbered), dtype=np.int32)
        rows = factor_table(numbered.side, vectors, degrees, biases=fitted.biases, index=everybody)
        columns = [numbered.labels(), *(rows[name] for name in ("factors", "bias", "n_ratings", numbered.side.rows))]
        return dataset.sparkSession.createDataFrame(pa.table(columns, FittedFactors.COLUMNS))

    return FittedFactors(
        users=table(ratings.users, fitted.user_vectors, fitted.user_degrees),
        items=table(ratings.items, fitted.item_vectors, fitted.item_degrees),
        n_users=len(ratings.users),
        n_items=len(ratings.items),
        rank=fitted.rank,
        biases=fitted.biases,
        global_mean=fitted.global_mean,
        objectives=tuple(step.objective for step in fitted.history),
    )
