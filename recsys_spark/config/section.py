"""What every section of the configuration has in common."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from recsys_spark.redaction import redact


class Section(BaseModel):
    """A section: unknown keys are refused, values are not converted, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield what is not as it is by default: a whole configuration has hundreds of settings."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name is None or value != fields[name].get_default(call_default_factory=True):
                yield name, value

    def __repr__(self) -> str:
        """Return the settings that are not as by default, without secrets in paths."""
        return redact(super().__repr__())
