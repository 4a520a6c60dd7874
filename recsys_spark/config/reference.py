"""The page that lists every setting, written from the configuration's own model."""

from __future__ import annotations

import types
from datetime import date
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recsys_spark.config.input import Column
from recsys_spark.config.run_config import PipelineConfig

_INTRODUCTION = """# Configuration

A pipeline is one YAML file. Unknown keys are refused. Relative paths are relative to the working directory.
Any setting can be overridden on the command line: `--set train.rank=64 --set ingest.rating_range="[1, 5]"`.
This page is what `recsys-spark settings` prints."""
_NAMES = {str: "text", int: "int", float: "float", bool: "bool", date: "date", types.NoneType: "null"}
_BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


def reference() -> str:
    """Return the reference of all settings as Markdown."""
    sections: list[tuple[str, type[BaseModel]]] = [("", PipelineConfig)]
    pages = [_INTRODUCTION]
    while sections:
        name, model = sections.pop(0)
        rows = [_row(name, key, field) for key, field in model.model_fields.items()]
        title = f"## `{name}`\n\n{model.__doc__}" if name else "## top level"
        pages.append("\n".join([f"{title}\n", "| key | type | default | |", "|---|---|---|---|", *rows]))
        inner = [(f"{name}.{key}".strip("."), _section(field)) for key, field in model.model_fields.items()]
        sections[:0] = [(key, section) for key, section in inner if section is not None]
    return "\n\n".join(pages) + "\n"


def _row(section: str, key: str, field: FieldInfo) -> str:
    inner = _section(field)
    if inner is not None:
        default = "(required)" if field.is_required() else "optional"
        kind = "sections by name" if get_origin(field.annotation) is dict else "section"
        return f"| `{key}` | {kind} | {default} | see `{f'{section}.{key}'.strip('.')}` |"
    cells = (_type(field), _default(field.default), field.description or "")
    return f"| `{key}` | {' | '.join(map(_in_table, cells))} |"


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _type(field: FieldInfo) -> str:
    bounds = [_bound(limit) for limit in field.metadata if type(limit) in _BOUNDS]
    return " ".join([_kind(field.annotation), " and ".join(bounds)]).strip()


def _bound(limit: Any) -> str:
    attribute, sign = _BOUNDS[type(limit)]
    return f"{sign} {getattr(limit, attribute):g}"


def _kind(kind: Any) -> str:
    if kind == Column:
        return "column name, or number from 0"
    if kind == Column | None:
        return "column name, or number from 0, or null"
    origin = get_origin(kind)
    if origin is Annotated:
        return _kind(get_args(kind)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(kind))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_kind(part) for part in get_args(kind) if part is not ...)}]"
    return _NAMES[kind]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "(required)"
    if value is None:
        return "null"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
