"""Write ``tables.md``: every table with its key and columns, as ``recsys_spark.tables`` has them.

Run it as ``python docs/list_tables.py``.
"""

from __future__ import annotations

from pathlib import Path

from pyspark.sql.types import ArrayType, StructField, StructType

from recsys_spark.pipeline import stages
from recsys_spark.tables import Table

PAGE = Path(__file__).resolve().parent / "tables.md"
INTRODUCTION = """# All tables

Each table is a folder of Parquet files in its run's directory; [Read the tables](read_the_tables.md) says how to find
the current ones. One that nothing asks for is not there. `make redraw` writes this page.
"""


def tables_page() -> str:
    """Return the page: the tables by the stage that writes them."""
    parts = [INTRODUCTION]
    for stage in stages():
        if stage.tables:
            parts += [f"## Written by {stage.name}\n", *map(_section, stage.tables)]
    return "\n".join(parts)


def _section(table: Table) -> str:
    key = ", ".join(f"`{name}`" for name in table.key)
    rows = [row for field in table.schema.fields for row in _rows(field)]
    title = f"### {table.name}\n\n" + (f"Key: {key}.\n\n" if key else "Rows may repeat.\n\n")
    return title + "| column | type | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _rows(field: StructField, prefix: str = "") -> list[str]:
    """Return a line per column and, of an array of structs, per entry's field."""
    name, kind = f"{prefix}{field.name}", field.dataType
    comment = field.metadata.get("comment", "").replace("|", r"\|")
    is_list = isinstance(kind, ArrayType) and isinstance(kind.elementType, StructType)
    inside = kind.elementType.fields if is_list else []
    shown = "array of" if is_list else kind.simpleString()
    return [f"| `{name}` | {shown} | {comment} |", *(line for each in inside for line in _rows(each, f"{name}."))]


if __name__ == "__main__":
    PAGE.write_text(tables_page(), encoding="utf-8")
