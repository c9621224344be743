"""Loads the run configuration: presets, a YAML file and `--set` overrides, merged in this order and then checked.

Every wrong key, type or value becomes one line that names the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from cluster.config.run import RunSettings
from cluster.inputs.models import TINY
from router.router_settings import RouterSettings
from trajectories.errors import UserError, did_you_mean
from trajectories.settings import Settings

DEFAULTS = {"policy": {"model": TINY}}

PRESETS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((Path(__file__).parent / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("local", "gpu", "cluster")
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


def check_router_settings(**values: str) -> RouterSettings:
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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


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
    if isinstance(problem["input"], Mapping):  # several keys do not go together, and the message names them
        return f"{key}: {message}" if key else message
    return f"{key}={problem['input']!r} does not fit: {message[0].lower()}{message[1:]}"
