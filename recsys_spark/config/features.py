"""The configuration of whatever looks at the items' own features."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import Field, model_serializer, model_validator

from recsys_spark.config.recommend import TableFile
from recsys_spark.config.section import Section

_KINDS_OF_SETTING = {
    "separator": ("multi_valued",),
    "min_items": ("categorical", "multi_valued"),
    "max_values": ("categorical", "multi_valued"),
    "n_hashes": ("text",),
}


class FeatureColumn(Section):
    """One column of the feature table, and how its cells become numbers."""

    kind: Literal["numeric", "categorical", "multi_valued", "text"] = Field(
        description="numeric: standardised; categorical: one column per value; multi_valued: the same, of cells "
        "such as Action|Comedy; text: TF-IDF of hashed words"
    )
    separator: str = Field(default="|", min_length=1, max_length=8, description="multi_valued: between values")
    min_items: int = Field(
        default=2,
        ge=1,
        le=1_000_000_000,
        description="categorical, multi_valued: values of fewer items are left out, and counted",
    )
    max_values: int = Field(
        default=100_000,
        ge=1,
        le=1_000_000,
        description="categorical, multi_valued: of more values, the most frequent have columns; the others are counted",
    )
    n_hashes: int = Field(default=256, ge=1, le=1 << 20, description="text: columns that words are hashed to")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="what the encoded numbers are multiplied by")

    @model_validator(mode="after")
    def _check_kind(self) -> FeatureColumn:
        for name, kinds in _KINDS_OF_SETTING.items():
            if name in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"{name} is for kind: {' and '.join(kinds)}; it does nothing for kind: {self.kind}")
        return self

    @model_serializer(mode="wrap")
    def _of_kind(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is stored is what counts, and can be read again.
        content: dict[str, Any] = handler(self)
        return {
            name: value for name, value in content.items() if self.kind in _KINDS_OF_SETTING.get(name, (self.kind,))
        }


class FactorMapConfig(Section):
    """The ridge regression from features to item factors, which gives factors to items without ratings."""

    reg_param: float = Field(default=10.0, gt=0, le=1e9)
    min_ratings: int = Field(default=5, ge=1, description="learned from items with so many ratings")


class ItemFeaturesConfig(TableFile):
    """Known features of the items, rated or not."""

    item: str = "item_id"
    features: dict[str, FeatureColumn] = Field(description="by column of the file")
    encoder: Literal["fit", "published"] = Field(
        default="fit",
        description="fit: to this table; published: as the newest published run has encoded, where it did so with the "
        "same settings",
    )
    drift_threshold: float = Field(
        default=0.25,
        gt=0,
        le=1e6,
        description="told as drifted, beside the table that the newest published encoder was fitted to: a mean that "
        "moved by so many standard deviations, or values whose shares moved by so much in total",
    )

    factor_map: FactorMapConfig = FactorMapConfig()

    @pydantic.field_validator("features")
    @classmethod
    def _check_features(cls, value: dict[str, FeatureColumn]) -> dict[str, FeatureColumn]:
        if not value or not all(value):
            raise ValueError("name at least one column of the file, such as features: {genres: {kind: multi_valued}}")
        return value

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the file: the item, and one role per feature."""
        return {"item": self.item} | {f"features.{name}": name for name in self.features}

    @property
    def roles_of_numbers(self) -> frozenset[str]:
        """The roles of numeric features."""
        return frozenset(f"features.{name}" for name, column in self.features.items() if column.kind == "numeric")

    @property
    def roles_of_one(self) -> frozenset[str]:
        """The roles whose cells have to be single values: the item, and numbers."""
        return self.roles_of_numbers | {"item"}

    @model_validator(mode="after")
    def _check_item(self) -> ItemFeaturesConfig:
        if self.item in self.features:
            raise ValueError(f"the column {self.item!r} holds the item: it cannot be a feature")
        return self


class SideInformationConfig(Section):
    """Item vectors are drawn towards what a ridge regression on their features says of them, fitted along."""

    reg_param: float = Field(
        default=10.0, gt=0, le=1e9, description="penalty of the regression, times reg_param and bias_reg_param"
    )


class FeatureRegressionConfig(Section):
    """The population's model, from which those of the users deviate."""

    population: bool = Field(
        default=True, description="false: users are drawn towards the mean rating alone, not towards a common model"
    )
    population_reg_param: float = Field(default=10.0, gt=0, le=1e9, description="penalty of the population's weights")

    @model_validator(mode="after")
    def _check_population(self) -> FeatureRegressionConfig:
        if not self.population and self.population_reg_param != type(self).model_fields["population_reg_param"].default:
            raise ValueError("population_reg_param is for population: true")
        return self
