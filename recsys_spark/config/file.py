"""A YAML file and the command line's overrides -> a configuration, or an error that names the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_origin

import pydantic
import yaml
from pydantic import BaseModel

from recsys_spark.config.run_config import PipelineConfig
from recsys_spark.errors import ConfigError


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where plain YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            if isinstance(key, str | int | float | bool):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Read, override and validate a configuration file.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    overrides : sequence of str
        ``key.path=value`` pairs, applied in order over the file; values are read as YAML.

    Returns
    -------
    PipelineConfig

    Raises
    ------
    ConfigError
        If the file cannot be read, or a key, type or value is not allowed. Every problem is listed with
        file, field, value, what is allowed, and the nearest valid key.
    """
    content = _read_yaml(Path(path))
    sources = {key: f"--set {key}" for key in (_apply_override(content, text) for text in overrides)}
    try:
        return PipelineConfig.model_validate(content)
    except pydantic.ValidationError as error:
        problems = [_describe(problem, str(path), sources) for problem in error.errors()]
        raise ConfigError(
            f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration\n"
            + "\n".join(problems)
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "the configuration file does not exist", where=str(path), remedy=_similar_files(path)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration file cannot be read", where=str(path), got=str(error)) from None
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: 2026-02-30
        raise ConfigError("the configuration file is not valid YAML", where=str(path), got=str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError(
            "the configuration must be a mapping of sections",
            where=str(path),
            got=type(content).__name__,
            allowed=", ".join(PipelineConfig.model_fields),
        )
    return content


def _similar_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("conf")
    found = sorted(str(p) for p in folder.glob("*.yaml"))
    return f"files there: {', '.join(found)}" if found else "give an existing file with --config"


def _apply_override(content: dict[str, Any], text: str) -> str:
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError("--set takes key.path=value", got=text, remedy="for example --set train.rank=64")
    place: Any = content
    for part in parts[:-1]:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"--set {key}: {part} is a value, not a section", got=text)
    try:
        place[parts[-1]] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {key}: the value is not valid YAML", got=value, allowed=str(error)) from None
    return ".".join(parts)


def _describe(problem: Any, path: str, sources: dict[str, str]) -> str:
    """Write one pydantic problem as lines of what, got, allowed and remedy."""
    location = [str(part) for part in problem["loc"] if not _is_union_branch(part)]
    field = ".".join(location) or "(the file)"
    where = next((text for key, text in sources.items() if key == field or key.startswith(field + ".")), path)
    lines = [f"  {where}: {field}: {_what(problem)}"]
    if problem["type"] == "extra_forbidden":
        allowed = _allowed_keys(location[:-1])
        near = _elsewhere(location[-1]) or difflib.get_close_matches(location[-1], allowed, n=1, cutoff=0.5)
        lines.append(f"    allowed: {', '.join(allowed)}")
        if near:
            prefix = ".".join(location[:-1])
            suggestion = near[0] if "." in near[0] or not prefix else f"{prefix}.{near[0]}"
            lines.append(f"    remedy: did you mean {suggestion}?")
    elif problem["type"] != "missing":
        lines.append(f"    got: {problem['input']!r}"[:300])
        hint = _hint(problem)
        if hint:
            lines.append(f"    {hint}")
    return "\n".join(lines)


def _is_union_branch(part: Any) -> bool:
    return isinstance(part, str) and (part.startswith("constrained-") or part in ("str", "int", "list[str]"))


def _what(problem: Any) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "missing, and there is no default"
    message: str = problem["msg"]
    return message.removeprefix("Value error, ")


def _hint(problem: Any) -> str:
    """Return the remedy for mistakes that YAML itself invites."""
    value = problem["input"]
    if isinstance(value, str) and problem["type"] in ("int_type", "float_type", "bool_type"):
        return f"remedy: write it without quotes, and with a dot if it is a number such as 1.0e-3 ({value!r} is text)"
    return ""


def _section(parts: Iterable[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = PipelineConfig
    is_name = False
    for part in parts:
        if is_name:
            # Of a mapping of sections, the names are the user's own.
            is_name = False
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if field is None or inner is None:
            return None
        model, is_name = inner, get_origin(field.annotation) is dict
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _allowed_keys(parts: Sequence[str]) -> list[str]:
    model = _section(parts)
    return list(model.model_fields) if model else []


def _elsewhere(key: str) -> list[str]:
    """Return where a key that stands in the wrong section belongs."""
    found = [
        f"{section}.{name}"
        for section in PipelineConfig.model_fields
        for name in _allowed_keys([section])
        if name == key
    ]
    return found[:1]
