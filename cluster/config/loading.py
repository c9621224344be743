"""Loads the run configuration: presets, a YAML file and `--set` overrides, merged in this order and then checked.

Every wrong key, type or value becomes one line that names the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from cluster.config.run import RunSettings
from learners.learner_settings import TINY
from router.router_settings import RouterSettings
from trajectories.errors import UserError, did_you_mean
from trajectories.settings import Settings, without_password

DEFAULTS = {"policy": {"model": TINY}}

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises for a text: also for a day that no calendar has, and for brackets that never end."""

PRESETS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((Path(__file__).parent / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("local", "inline", "instruct", "gpu", "cluster")
}


def load_config(preset: str, file: Path | None = None, overrides: Iterable[str] = ()) -> RunSettings:
    """The preset, changed by the YAML file, changed by `section.key=value` overrides.

    Raises UserError, whose one line names the wrong key or value and the nearest right one.
    """
    if preset not in PRESETS:
        raise UserError(
            f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.{did_you_mean(preset, PRESETS)}"
        )
    values = merge(PRESETS[preset], _read_yaml(file) if file else {})
    for override in overrides:
        values = merge(values, _parse_override(override))
    return check_config(values)


def check_config(values: Mapping[str, Any]) -> RunSettings:
    """Raises UserError for the first wrong key, type or value."""
    try:
        return RunSettings.model_validate(merge(DEFAULTS, values))
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def check_router_settings(**values: Any) -> RouterSettings:
    """Settings of the router by themselves. Raises UserError for a wrong one."""
    try:
        return RouterSettings.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping in which `changes` win; sections are merged key by key.

    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def keys(model: type[Settings] = RunSettings, prefix: str = "") -> Iterator[str]:
    """All dotted keys of the configuration."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            yield from keys(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {file}: {error.strerror}. Check the path.") from None
    except UNREADABLE as error:
        raise UserError(f"--config {file} is no YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"--config {file} must hold sections such as `learner:`, not a {type(values).__name__}.")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(
            f"--set {override} is no assignment: write it as --set section.key=value, e.g. learner.lr=1e-5."
        )
    head, _, rest = path.partition(".")
    names = [head, rest] if head == "data" and rest else path.split(".")  # a module of your own has dots in its name
    value = _read_value(_annotation(names), text)
    for name in reversed(names):
        value = {name: value}
    return value


def _annotation(names: Iterable[str]) -> Any:
    """The type of the setting at this path; None where there is no such setting, or it may be anything."""
    annotation: Any = RunSettings
    for name in names:
        section = section_of(annotation)
        if section is not None:
            field = section.model_fields.get(name)
            annotation = field.annotation if field is not None else None
        else:  # a mapping, as in data.webshop=DIR
            annotation = get_args(annotation)[1] if _is_a(annotation, Mapping) else None
    return annotation


def _read_value(annotation: Any, text: str) -> Any:
    """The value that `text` means for a setting of this type: itself where the setting is text, else YAML. YAML alone
    would read `no`, `2024`, `a: b` and `# a` as a truth, a number, a mapping and nothing.

    >>> _read_value(str, "no"), _read_value(str | None, "null"), _read_value(tuple[str, ...], "[no, 2024]")
    ('no', None, ['no', '2024'])
    """
    kinds = get_args(annotation) if NoneType in get_args(annotation) else (annotation,)
    if NoneType in kinds and text in ("", "null"):
        return None
    if any(map(_is_text, kinds)):
        return text
    loader = yaml.BaseLoader if any(map(_holds_text, kinds)) else yaml.SafeLoader
    try:
        return yaml.load(text, loader)
    except UNREADABLE:
        return text


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))


def _holds_text(kind: Any) -> bool:
    """A list of texts, or a mapping to texts."""
    parts = get_args(kind)[1:] if _is_a(kind, Mapping) else get_args(kind)[:1] if _is_a(kind, tuple) else ()
    return any(map(_is_text, parts))


def _is_a(kind: Any, base: type) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, base)


def section_of(annotation: Any) -> type[Settings] | None:
    """The section behind an annotation `Model` or `Model | None`."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind
    return None


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(keys())
        last = key.rpartition(".")[2]
        same_name = [name for name in known if name.rpartition(".")[2] == last]
        hint = f" Did you mean {same_name[0]!r}?" if same_name else did_you_mean(key, known)
        siblings = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
        return f"unknown key {key!r} in the configuration.{hint or ' Known here: ' + ', '.join(siblings) + '.'}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        inside = [name for name in keys() if name.startswith(f"{key}.")]
        return f"{key} is a section: set its keys one by one, e.g. --set {inside[0]}=VALUE."
    message = problem["msg"].removeprefix("Value error, ").rstrip(".?") + ("?" if problem["msg"].endswith("?") else ".")
    if problem["type"] == "string_type" and isinstance(problem["input"], (bool, int, float)):
        message = f"{message} In a YAML file, put it in quotes."
    if isinstance(problem["input"], Mapping):  # several keys do not go together, and the message names them
        return f"{key}: {message}" if key else message
    return f"{key}={without_password(repr(problem['input']))} does not fit: {message[0].lower()}{message[1:]}"
