"""The ``route`` exchange with side information: items are drawn towards what their features say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from recsys_spark.rating_blocks import ITEMS, Side
from recsys_spark.storage import Storage
from recsys_spark.train.exchange import Known
from recsys_spark.train.first_vectors import side_information
from recsys_spark.train.route import RoutedVectors, RouteExchange
from recsys_spark.train.routed_features import RoutedFeatures
from recsys_spark.train.shares import Shares
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig
    from recsys_spark.features import ItemFeatures


class ToldRouteExchange(RouteExchange):
    """Both sides' vectors in blocks on storage, and the items' features; see `RouteExchange` and `RoutedFeatures`."""

    def __init__(
        self,
        spark: SparkSession,
        config: TrainConfig,
        constant: float,
        n_blocks: int,
        storage: Storage,
        folder: str,
        features: ItemFeatures,
    ) -> None:
        super().__init__(spark, config, constant, n_blocks, storage, folder)
        self._features = features

    def begin(self, users: SideBlocks, items: SideBlocks, known: Known | None) -> dict[Side, float]:
        """Make both sides' first vectors; see `RouteExchange.begin`."""
        self._take(users, items)
        return {**super().begin(users, items, known), ITEMS: self._penalty()}

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side; see `RouteExchange.solve`."""
        if rows.side != ITEMS:
            return super().solve(rows, fixed)
        path, plain = self.vectors[ITEMS], self._settings
        self._settings = replace(plain, told=self._routed_features.told(self._blocks(path), path))
        try:
            shares = super().solve(rows, fixed)
        finally:
            self._settings = plain
        return shares._replace(penalty=self._penalty())

    def restore(self, saved: Mapping[str, Any], users: SideBlocks, items: SideBlocks) -> RoutedVectors:
        """Return vectors that were saved; see `RouteExchange.restore`."""
        self._take(users, items)
        return super().restore(saved, users, items)

    def _take(self, users: SideBlocks, items: SideBlocks) -> None:
        problem, width = self._settings.problem, self._config.rank + self._config.uses_biases
        side = side_information(self._config, self._features, users, items, problem)
        assert side is not None
        self._routed_features = RoutedFeatures(side, width, problem.regularization)

    def _penalty(self) -> float:
        path = self.vectors[ITEMS]
        return self._routed_features.penalty(self._blocks(path), path)
