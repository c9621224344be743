"""What an agent is told of an environment: templates, one file a format, beside the environment.

    envs/alfworld/prompts/tagged.jinja       # the system message of ALFWorld in the format `tagged`

A template may use `environment` (its name), `few_shot` and `list_actions` (settings of `rollout.prompt`). Which action
an answer holds is the business of `trajectories/answers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import jinja2

from trajectories.errors import UserError, first_line
from trajectories.prompt_settings import Instructions, PromptSettings

ALIASES: Mapping[str, Mapping[str, str]] = {
    "alfworld": {
        r"(?:put|place) (.+) (?:in/on|into|onto|in|on) (.+)": r"move \1 to \2",
        r"(?:put|place|move) (.+) (?:in/on|into|onto|in|on|to) (.+)": r"put \1 in/on \2",
    },
}
"""Other words for an environment's actions, taken where a format is set and what they stand for is admissible. Games
fetched before ALFWorld 0.4, and so all that models have read of it, say `put X in/on Y` for `move X to Y`."""


def instructions(environment: str, prompt: PromptSettings) -> Instructions:
    """The system message and the aliases of an environment; neither where no format, template or message is set.

    Raises:
        UserError: the environment has no template for this format, or the template cannot be read or rendered.
    """
    aliases = ALIASES.get(environment, {}) if prompt.format else {}
    if prompt.system or not (prompt.format or prompt.template):
        return Instructions(prompt.system, aliases)
    path = Path(prompt.template).expanduser() if prompt.template else _own_template(environment, prompt.format)
    try:
        template = jinja2.Template(path.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined)
        text = template.render(environment=environment, few_shot=prompt.few_shot, list_actions=prompt.list_actions)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompt template {path} ({first_line(error)}): check its path") from None
    except jinja2.TemplateError as error:
        raise UserError(
            f"the prompt template {path} cannot be rendered ({first_line(error)}): mend it; it may use environment, "
            "few_shot and list_actions"
        ) from None
    return Instructions(text.strip(), aliases)


def _own_template(environment: str, format: str) -> Path:
    folder = _folder(environment) / "prompts"
    path = folder / f"{format}.jinja"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.jinja")))
        choice = f"choose one of {known}" if known else f"write {folder.name}/{path.name} beside the environment"
        raise UserError(
            f"{environment} has no prompt for rollout.prompt.format={format}: {choice}, or name a template of your own "
            "with rollout.prompt.template"
        )
    return path


def _folder(environment: str) -> Path:
    """Where an environment lies: below this package, or, where its name is dotted, beside the module that has it."""
    spec = _spec(environment) if "." in environment else None
    return Path(spec.origin).parent if spec and spec.origin else Path(__file__).parent / environment


def _spec(name: str) -> ModuleSpec | None:
    """Of the module of this name, or else of that in which the name stands."""
    module = name.rpartition(".")[0]
    try:
        return find_spec(name) or find_spec(module)
    except ModuleNotFoundError:  # a module is no package, so nothing is looked for in it
        return find_spec(module)
