"""Estimators and models on storage: params as PySpark saves them, factors as Parquet beside them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWritable, MLWriter

from recsys_spark.errors import ConfigError
from recsys_spark.ml.fitted import FittedFactors
from recsys_spark.storage import join, literal_path, storage_for

if TYPE_CHECKING:
    from recsys_spark.ml.als_model import ALSModel

_TABLES = {"users": "userFactors", "items": "itemFactors"}


class ParamsWriter(DefaultParamsWriter):
    """Writes params as PySpark does; removes what is overwritten without a JVM, which a Connect client has not."""

    def save(self, path: str) -> None:
        """Save to a path where nothing is yet, or with ``overwrite()`` in the place of what is there.

        Raises
        ------
        ConfigError
            If something is there; or if it is the model itself, whose tables are read when they are needed.
        """
        storage = storage_for(path, self.sparkSession)
        if storage.exists(path):
            if not self.shouldOverwrite:
                raise ConfigError("something is there already", where=path, remedy="use write().overwrite().save(path)")
            self.check_not_read_from(path)
            storage.remove(path)
        self.saveImpl(path)

    def check_not_read_from(self, path: str) -> None:
        """Raise ConfigError if what is saved is read from this path."""


class ParamsWritable(MLWritable):
    """What has params alone to save."""

    def write(self) -> MLWriter:
        """Return a writer: ``write().overwrite().save(path)``."""
        assert isinstance(self, Params)
        return ParamsWriter(self)


class FactorsWriter(ParamsWriter):
    """Writes a model: ``userFactors`` and ``itemFactors`` as Parquet, then ``metadata``.

    Parameters
    ----------
    model : ALSModel
    factors : FittedFactors
    """

    def __init__(self, model: ALSModel, factors: FittedFactors) -> None:
        super().__init__(model)
        self._factors = factors

    def check_not_read_from(self, path: str) -> None:
        """Raise ConfigError if the model was loaded from this path."""
        if self._factors.path is not None and self._factors.path.rstrip("/") == path.rstrip("/"):
            raise ConfigError(
                "a model cannot be saved over the files that it is read from",
                where=path,
                remedy="save it to another path",
            )

    def saveImpl(self, path: str) -> None:
        """Write the tables, and then what makes them a model."""
        for name, folder in _TABLES.items():
            getattr(self._factors, name).write.mode("error").parquet(join(path, folder))
        numbers = {name: getattr(self._factors, name) for name in _numbers()}
        self.saveMetadata(self.instance, path, self.sparkSession, extraMetadata=numbers)


class FactorsReader(MLReader["ALSModel"]):
    """Reads what `FactorsWriter` has written.

    Parameters
    ----------
    kind : type
        Of the model.
    """

    def __init__(self, kind: type[ALSModel]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> ALSModel:
        """Load a model; its tables are read when they are needed.

        Raises
        ------
        ConfigError
            If no model of this kind is there.
        """
        spark = self.sparkSession
        if not storage_for(path, spark).exists(join(path, "metadata")):
            raise ConfigError("no model was saved there", where=path)
        metadata = DefaultParamsReader.loadMetadata(literal_path(path), spark)
        if metadata["class"] != f"{self._kind.__module__}.{self._kind.__qualname__}":
            raise ConfigError(
                "what was saved there is something else",
                where=path,
                got=metadata["class"],
                allowed=self._kind.__qualname__,
                remedy="a model that MLlib has saved has to be fitted again",
            )
        found: dict[str, Any] = {name: metadata[name] for name in _numbers()}
        for name, folder in _TABLES.items():
            found[name] = spark.read.parquet(literal_path(join(path, folder)))
        model = self._kind(FittedFactors(**found, path=path))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _numbers() -> list[str]:
    """Return the fields that are numbers, and so go into the metadata."""
    return [field.name for field in fields(FittedFactors) if field.name not in (*_TABLES, "path")]
