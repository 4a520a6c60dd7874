"""Bytes as people and as Spark write them."""

from __future__ import annotations

import re

from recsys_spark.errors import ConfigError


def human_size(n_bytes: float) -> str:
    """Return bytes as a person reads them, in binary units, as Spark's settings have them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} {unit}" if unit in ("bytes", "KiB") else f"{n_bytes:,.1f} {unit}"


def spark_size(n_bytes: int) -> str:
    """Return bytes as one of Spark's sizes, rounded up."""
    mebibytes = -(-n_bytes // (1 << 20))
    return f"{mebibytes}m" if mebibytes < 4096 else f"{-(-mebibytes // 1024)}g"


def parse_size(text: str, unit: int = 1) -> int:
    """Return the bytes of one of Spark's sizes, such as ``4g``; ``unit`` is that of a number without one.

    Raises
    ------
    ConfigError
        If it is no size.
    """
    found = re.fullmatch(r"\s*(\d+)\s*([bkmgtp]?)b?\s*", text.lower())
    if not found:
        raise ConfigError("a size cannot be read", got=text, allowed="such as 512m or 4g")
    number, letter = found.groups()
    return int(number) * (1 << 10 * "bkmgtp".index(letter) if letter else unit)
