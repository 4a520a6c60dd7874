"""The params of the estimator and its model: MLlib's own, and ours; and what they mean for training."""

from __future__ import annotations

import difflib
import re
from typing import Any, Final, Self

import pydantic
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.recommendation import _ALSModelParams, _ALSParams

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError

COLD_START: Final = ("nan", "drop")
# A field of the configuration, by the param that decides it.
_PARAM_OF_FIELD: Final = {
    "rank": "rank",
    "iterations": "maxIter",
    "reg_param": "regParam",
    "alpha": "alpha",
    "nonnegative": "nonnegative",
    "n_blocks": "numUserBlocks",
    "reg_exponent": "regExponent",
    "biases": "biases",
    "unobserved_weight": "unobservedWeight",
    "tolerance": "tol",
    "solver": "solver",
}


class ALSModelParams(_ALSModelParams):
    """Params of the estimator and the model: MLlib's, with ids of any whole number or text."""

    userCol: Param[str] = Param(
        Params._dummy(),
        "userCol",
        "column of user ids: whole numbers of any numeric type, or strings",
        typeConverter=TypeConverters.toString,
    )
    itemCol: Param[str] = Param(
        Params._dummy(),
        "itemCol",
        "column of item ids: whole numbers of any numeric type, or strings",
        typeConverter=TypeConverters.toString,
    )

    def setUserCol(self, value: str) -> Self:
        """Set the column of user ids."""
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set the column of item ids."""
        return self._set(itemCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column that ``transform`` adds."""
        return self._set(predictionCol=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set what becomes of rows whose user or item is unknown: ``nan`` or ``drop``."""
        return self._set(coldStartStrategy=value)

    def setBlockSize(self, value: int) -> Self:
        """Set a param of MLlib's that changes nothing here."""
        return self._set(blockSize=value)

    def setParams(self, **params: Any) -> Self:
        """Set params by name; None leaves one as it is.

        Raises
        ------
        ConfigError
            If there is no such param.
        """
        for name in params:
            if not self.hasParam(name):
                names = [param.name for param in self.params]
                near = difflib.get_close_matches(name, names, n=1)
                raise ConfigError(
                    f"{type(self).__name__} has no such param",
                    got=name,
                    allowed=", ".join(names),
                    remedy=f"did you mean {near[0]}?" if near else "",
                )
        return self._set(**{name: value for name, value in params.items() if value is not None})

    def drops_unknown(self) -> bool:
        """Return whether ``transform`` leaves out rows whose user or item is unknown.

        Raises
        ------
        ConfigError
            If coldStartStrategy is neither ``nan`` nor ``drop``.
        """
        strategy = self.getColdStartStrategy()
        if strategy.lower() not in COLD_START:
            raise ConfigError(
                "there is no such strategy", where="coldStartStrategy", got=strategy, allowed=" or ".join(COLD_START)
            )
        return strategy.lower() == "drop"

    def _described(self) -> str:
        """Return the params that were set, as the arguments that would set them."""
        chosen = sorted((param.name, value) for param, value in self._paramMap.items())
        return ", ".join(f"{name}={value!r}" for name, value in chosen)


class ALSParams(ALSModelParams, _ALSParams):
    """Params of the estimator: MLlib's, and what this package's training can do beyond it."""

    regExponent: Param[float] = Param(
        Params._dummy(),
        "regExponent",
        "the penalty of a row is regParam * (its number of ratings) ** regExponent; 1: MLlib's",
        typeConverter=TypeConverters.toFloat,
    )
    biases: Param[bool] = Param(
        Params._dummy(),
        "biases",
        "whether predictions have a mean, and a bias of the user and of the item; with explicit ratings",
        typeConverter=TypeConverters.toBoolean,
    )
    unobservedWeight: Param[float] = Param(
        Params._dummy(),
        "unobservedWeight",
        "weight of the squared score of every pair, with explicit ratings",
        typeConverter=TypeConverters.toFloat,
    )
    tol: Param[float] = Param(
        Params._dummy(),
        "tol",
        "training stops when an iteration lowers the objective by less than this share; 0: after maxIter",
        typeConverter=TypeConverters.toFloat,
    )
    solver: Param[str] = Param(
        Params._dummy(),
        "solver",
        "how a row is solved: auto, cholesky, dual, cg, subspace or gradient",
        typeConverter=TypeConverters.toString,
    )

    def __init__(self) -> None:
        super().__init__()
        # MLlib's default seed is another one in every Python process.
        self._setDefault(seed=0, regExponent=1.0, biases=False, unobservedWeight=0.0, tol=0.0, solver="auto")

    def train_config(self) -> TrainConfig:
        """Return the configuration of a training with the objective of these params.

        Raises
        ------
        ConfigError
            If a param is out of range, or params do not go together.
        """
        values = {name: self.getOrDefault(param) for name, param in _PARAM_OF_FIELD.items() if name != "n_blocks"}
        asked = [param for param in (self.numUserBlocks, self.numItemBlocks) if self.isSet(param)]
        seed = self.getOrDefault(self.seed)
        try:
            return TrainConfig(
                **values,
                n_blocks=max((self.getOrDefault(param) for param in asked), default=None),
                loss="implicit" if self.getImplicitPrefs() else "squared",
                bias_reg_param=values["reg_param"],
                # Seeds of MLlib may be negative.
                seed=(0 if seed is None else seed) % 2**63,
                checkpoint_interval=None,
            )
        except pydantic.ValidationError as error:
            raise _out_of_range(error) from None


def in_params(text: str) -> str:
    """Return what training says of its configuration, in terms of params."""
    return re.sub(r"\btrain\.(\w+)", lambda found: _PARAM_OF_FIELD.get(found[1], found[0]), text)


def _out_of_range(error: pydantic.ValidationError) -> ConfigError:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    param = _PARAM_OF_FIELD.get(field, field)
    message = first["msg"].removeprefix("Value error, ")
    if not param:
        # Rules about several fields name them as the configuration does.
        return ConfigError("these params do not go together", got=message, where="ALS")
    return ConfigError("a param cannot have this value", where=param, got=repr(first["input"]), allowed=message)
