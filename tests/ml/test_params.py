"""Params: MLlib's names and defaults, ours beside them, and what they mean for training."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pyspark.ml.recommendation import ALS as MLlibALS

from recsys_spark.errors import ConfigError
from recsys_spark.ml import ALS, ALSModel
from recsys_spark.ml.params import in_params
from recsys_spark.ml.ratings import _storage_level


def signature(estimator: type) -> dict[str, Any]:
    parameters = inspect.signature(estimator.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}


def test_all_params_of_mllib_have_their_names_and_defaults() -> None:
    theirs, ours = signature(MLlibALS), signature(ALS)
    assert theirs.items() <= ours.items()
    als = ALS()
    for name, default in theirs.items():
        if name != "seed":
            assert als.getOrDefault(name) == default, name
            assert getattr(als, f"get{name[0].upper()}{name[1:]}")() == default, name
    assert als.getPredictionCol() == "prediction"
    for name in set(ours) - set(theirs):
        assert als.getOrDefault(name) == ours[name], name


def test_every_setter_of_mllib_is_there() -> None:
    for theirs, ours in ((MLlibALS, ALS),):
        setters = {name for name in dir(theirs) if name.startswith(("set", "get"))}
        assert setters <= set(dir(ours))
    assert {"setUserCol", "setItemCol", "setPredictionCol", "setColdStartStrategy", "setBlockSize"} <= set(
        dir(ALSModel)
    )


@pytest.mark.parametrize("name", [name for name in signature(ALS) if name != "seed"])
def test_setters_set_what_they_name(name: str) -> None:
    als = ALS()
    default = als.getOrDefault(name)
    value = f"{default}x" if isinstance(default, str) else not default if isinstance(default, bool) else default + 1
    assert getattr(als, f"set{name[0].upper()}{name[1:]}")(value) is als
    assert als.isSet(name)
    assert als.getOrDefault(name) == value
    als.clear(als.getParam(name))
    assert als.getOrDefault(name) == default


def test_params_are_set_together_by_name() -> None:
    als = ALS(rank=3, seed=None).setParams(maxIter=2, userCol="reader").setNumBlocks(4)
    assert (als.getRank(), als.getMaxIter(), als.getUserCol(), als.getRegParam()) == (3, 2, "reader", 0.1)
    assert (als.getNumUserBlocks(), als.getNumItemBlocks(), als.getSeed()) == (4, 4, 0)
    assert repr(als) == f"{als.uid}(maxIter=2, numItemBlocks=4, numUserBlocks=4, rank=3, userCol='reader')"
    with pytest.raises(ConfigError, match="did you mean maxIter"):
        als.setParams(maxiter=3)
    with pytest.raises(TypeError, match="rank"):
        als.setRank("many")  # type: ignore[arg-type]


def test_a_copy_has_values_of_its_own() -> None:
    als = ALS(rank=3)
    other = als.copy({als.maxIter: 7})
    other.setRank(5)
    assert (als.getRank(), als.getMaxIter()) == (3, 10)
    assert (other.getRank(), other.getMaxIter(), other.uid) == (5, 7, als.uid)


def test_params_mean_mllibs_objective() -> None:
    config = ALS(rank=7, maxIter=4, regParam=0.25, seed=-1).train_config()
    assert (config.loss, config.rank, config.iterations, config.reg_param) == ("squared", 7, 4, 0.25)
    assert (config.reg_exponent, config.uses_biases, config.tolerance, config.n_blocks) == (1.0, False, 0.0, None)
    assert config.seed == 2**63 - 1
    assert config.checkpoint_interval is None, "there is no run to write checkpoints into"
    assert ALS(numUserBlocks=3, numItemBlocks=6).train_config().n_blocks == 6
    config = ALS(implicitPrefs=True, alpha=3.0, nonnegative=True, numItemBlocks=6).train_config()
    assert (config.loss, config.alpha, config.nonnegative, config.n_blocks) == ("implicit", 3.0, True, 6)
    config = ALS(biases=True, regExponent=0.5, unobservedWeight=0.1, tol=0.01, solver="cg").train_config()
    assert (config.biases, config.reg_exponent, config.unobserved_weight) == (True, 0.5, 0.1)
    assert (config.tolerance, config.solver, config.bias_reg_param) == (0.01, "cg", 0.1)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"rank": 0}, ["rank 0"]),
        ({"rank": -1}, ["where: rank", "-1"]),
        ({"maxIter": 0}, ["where: maxIter", "got: 0"]),
        ({"regParam": 0.0}, ["where: regParam", "greater than 0"]),
        ({"alpha": -1.0}, ["where: alpha"]),
        ({"numUserBlocks": 0}, ["where: numUserBlocks"]),
        ({"solver": "magic"}, ["where: solver", "'magic'", "cholesky"]),
        ({"nonnegative": True, "solver": "cg"}, ["do not go together", "nonnegative needs solver"]),
        ({"implicitPrefs": True, "unobservedWeight": 0.1}, ["do not go together", "unobserved_weight"]),
    ],
)
def test_params_out_of_range_are_named(params: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ALS(**params).train_config()
    for name in names:
        assert name in str(caught.value)


def test_errors_of_training_name_params() -> None:
    said = "where: train.rank 99, remedy: raise train.n_blocks above 4, or set train.exchange: route"
    assert in_params(said) == "where: rank 99, remedy: raise numUserBlocks above 4, or set train.exchange: route"


def test_a_model_that_was_not_fitted_says_so() -> None:
    model = ALSModel()
    assert repr(model) == f"ALSModel: uid={model.uid}, not fitted"
    with pytest.raises(ConfigError, match="not fitted"):
        _ = model.rank


def test_cold_start_strategies() -> None:
    assert not ALS().drops_unknown()
    assert ALS(coldStartStrategy="Drop").drops_unknown()
    with pytest.raises(ConfigError, match="nan or drop"):
        ALS(coldStartStrategy="zero").drops_unknown()


def test_storage_levels_are_those_of_spark() -> None:
    assert _storage_level("MEMORY_AND_DISK").useDisk
    assert _storage_level("memory_only_ser").useMemory
    for name in ("NONE", "SOMEWHERE"):
        with pytest.raises(ConfigError, match=name):
            _storage_level(name)
