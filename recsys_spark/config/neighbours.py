"""The configuration of whatever looks for similar items or users."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.config.section import Section


class SimilarConfig(Section):
    """The most similar rows of every row: of items for ``similar_items``, of users for ``similar_users``."""

    method: Literal["factors", "content", "cosine", "jaccard", "llr"] = Field(
        default="factors",
        description="factors: cosine of the model's factors; content: of the item_features, for items without ratings "
        "too; cosine, jaccard, llr (log-likelihood ratio): of who has rated both (users: of what both have rated)",
    )
    content_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="factors, of items: how much the cosine of the item_features counts; the rest is that of factors",
    )
    n: int = Field(default=10, ge=1, le=1000, description="neighbours per row")
    shrink: float = Field(
        default=10.0,
        ge=0,
        le=1e9,
        description="similarities count for c / (c + shrink), with c ratings in common; factors: for n / (n + shrink) "
        "of either row, with n ratings; content: always in full; 0: in full",
    )
    min_ratings: int = Field(default=1, ge=1, description="rows with fewer ratings are nobody's neighbours")
    relevant_rating: float | None = Field(
        default=None, description="cosine, jaccard, llr: only ratings from here up count; null: all"
    )

    @model_validator(mode="after")
    def _check_ratings(self) -> SimilarConfig:
        if self.relevant_rating is not None and self.method in ("factors", "content"):
            raise ValueError("relevant_rating is for method: cosine, jaccard and llr")
        if self.content_weight > 0 and self.method != "factors":
            raise ValueError("content_weight is for method: factors")
        if self.method == "content" and self.shrink != type(self).model_fields["shrink"].default:
            raise ValueError("shrink is about ratings, and does nothing for method: content")
        return self

    @property
    def weight_of_content(self) -> float:
        """How much the cosine of features counts: all for ``content``."""
        return 1.0 if self.method == "content" else self.content_weight


class KnnConfig(Section):
    """The neighbourhood models: what similar users thought of an item, or a user of similar items."""

    k: int = Field(default=200, ge=1, le=10_000, description="neighbours per user (user_knn) or item (item_knn)")
    similarity: Literal["cosine", "pearson"] = Field(
        default="pearson",
        description="cosine: of the ratings; pearson: correlation of the deviations from each row's mean, over the "
        "ratings in common",
    )
    shrink: float = Field(
        default=10.0, ge=0, le=1e9, description="similarities count for c / (c + shrink), with c ratings in common"
    )
    prior_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="added to the sum of similarities below the line, so that few neighbours move a prediction little",
    )
