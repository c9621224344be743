"""Makes `docs/configuration.md` of the settings: `python -m cluster.config.reference > docs/configuration.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cluster.config.loading import DEFAULTS, section_of
from cluster.config.matrix import MatrixSettings
from cluster.config.run import RunSettings
from trajectories.settings import Settings

HEAD = """# Configuration

Every setting of a run, with its type, its default and its unit. Made of the docstrings beside the settings by
`make docs`; a test fails when this page is stale.

A run takes its settings from a preset (`--preset local`, `instruct`, `gpu` or `cluster`: `cluster/config/presets/`),
then from a YAML file (`--config FILE`), then from `--set section.key=value`, the last one winning. `RUN/config.yaml`
holds the outcome. Where a setting is text, it is what stands behind the `=`, without quotes of its own:
`--set policy.model=off`, `--set "rollout.prompt.system=Answer: one action"`; where it may be null as well, `null` and
nothing at all are null.
All other values are written in YAML: `--set tasks=[alfworld,webshop]`, `--set evaluation.limit=null`. In a file
everything is YAML, so a text such as `no`, `2024` or `a: b` needs quotes there.
"""
TABLE = "| key | type | default | meaning and unit | tuning |\n| --- | --- | --- | --- | --- |"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference() -> str:
    """The page in Markdown."""
    parts = [HEAD, "## The run", "", *_sections(RunSettings, "")]
    parts += ["## The matrix of `concerto compare`", "", *_sections(MatrixSettings, "")]
    return "\n".join(parts).rstrip("\n") + "\n"


def _sections(settings: type[Settings], prefix: str) -> Iterator[str]:
    """The keys of a section as a table, then the sections in it."""
    fields = settings.model_fields
    inner = {name: section for name, field in fields.items() if (section := section_of(field.annotation)) is not None}
    if prefix:
        yield f"### `{prefix.rstrip('.')}`"
        yield ""
    yield " ".join((settings.__doc__ or "").split())
    yield ""
    schema = settings.model_json_schema(mode="validation")
    rows = [_row(prefix, name, settings, schema) for name in fields if name not in inner]
    if rows:
        yield from (TABLE, *rows, "")
    for name, section in inner.items():
        if _type(schema["properties"][name], schema["$defs"]).endswith("null"):
            yield f"`{prefix}{name}` is null unless one of its keys is set. {_text(fields[name].description)[0]}"
            yield ""
        yield from _sections(section, f"{prefix}{name}.")


def _row(prefix: str, name: str, settings: type[Settings], schema: dict[str, Any]) -> str:
    field = settings.model_fields[name]
    always = DEFAULTS.get(prefix.rstrip("."), {})
    if field.is_required() and name not in always:
        default = "required"
    else:
        default = f"`{json.dumps(always.get(name, field.get_default(call_default_factory=True)), default=str)}`"
    kind = _type(schema["properties"][name], schema.get("$defs", {}))
    return "| " + " | ".join((f"`{prefix}{name}`", kind, default, *_text(field.description))) + " |"


def _text(description: str | None) -> tuple[str, str]:
    """(meaning, tuning) of a docstring."""
    meaning, _, tuning = " ".join((description or "").split()).partition(" Tuning: ")
    return meaning, tuning[:1].upper() + tuning[1:]


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A type in words, out of a JSON schema."""
    if "$ref" in field:
        return _type(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        return " or ".join(_type(one, definitions) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        items = field.get("items") or field["prefixItems"][0]
        return f"list of {_type(items, definitions)}"
    if field.get("type") == "object":
        return "section" if "properties" in field else "mapping"
    bounds = [f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if key in field]
    return " ".join((field.get("type", "any"), *bounds))


if __name__ == "__main__":
    print(reference(), end="")
