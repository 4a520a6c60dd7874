"""Errors of workers that tell which row they met."""

from __future__ import annotations

import re

from recsys_spark.errors import NumericalError, RowError, error_from_worker
from recsys_spark.rating_blocks import Side


def with_row(error: Exception, side: Side, place: str) -> Exception:
    """Return the error of a worker as one that says which row of which side it met, or else the error itself."""
    known = error if isinstance(error, NumericalError) else error_from_worker(str(error))
    found = re.search(r"first of them row (\d+)", str(known)) if isinstance(known, NumericalError) else None
    return RowError(f"{place}: {known}", side.name, int(found.group(1))) if found else error
