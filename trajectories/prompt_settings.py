"""What is written into prompts beside what the environment says: `PromptSettings`, `Instructions`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from trajectories.answers import FormatName
from trajectories.chat import CLOCK, DATE
from trajectories.settings import Settings


class PromptSettings(Settings):
    """How observations become prompts."""

    mode: Literal["transcript", "windowed"] = "transcript"
    """`transcript`: one append-only conversation an episode, one training sequence. `windowed`: one prompt a turn with
    the last `window` steps, one training sequence a turn; for episodes longer than the model's context. Tuning:
    `transcript` as long as episodes fit, since it trains an episode in one pass."""
    format: FormatName = ""
    """How the model is told to answer, and how its action is read (trajectories/answers.py): `action`, the bare action;
    `react`, Thought: and Action:; `tagged`, <think> and <action>. The system message is then the environment's own,
    envs/<name>/prompts/<format>.jinja. Empty: no message, and the whole answer is the action. Tuning: `tagged` for
    instruct models of a billion parameters or more, `action` for smaller ones; empty for the embedded model, which was
    pre-trained on bare actions."""
    template: str | None = None
    """File with a system message of your own, in place of the environment's: a Jinja template that may use
    `environment` (its name), `few_shot` and `list_actions`. Tuning: copy envs/<name>/prompts/<format>.jinja and change
    the copy; on a cluster it must lie where all nodes see it."""
    system: str = ""
    """System message as it stands, in place of any template. Empty with no format and no template: none, as the chat
    template has it. Tuning: for one-line trials; a template is easier to read."""
    few_shot: bool = False
    """Show the worked example of the template. Tuning: on for models that miss the format at first; it costs some 200
    tokens a prompt."""
    window: int = Field(default=2, ge=0)
    """Steps shown before the current one, in windowed mode. Tuning: 2 as in published baselines; more remember more and
    cost tokens."""
    list_actions: bool = False
    """Write the admissible actions under every observation. Tuning: costs many tokens; large models profit."""
    max_listed_tokens: PositiveInt = 512
    """Tokens that such a list may have; what does not fit is counted at its end. Tuning: ALFWorld lists some 150 to 400
    tokens, a WebShop page with many options more."""
    chat_template_kwargs: Mapping[str, Any] = Field(default_factory=dict)
    """What the model's chat template reads besides the messages, as in {enable_thinking: false} for Qwen3. Tuning: a
    model that reasons before it acts needs a higher rollout.max_response_tokens; switch its reasoning off for one that
    answers with the bare action."""
    date: dt.date = DATE
    """The day (at midnight) that a chat template with a clock (`strftime_now`) is told, in every turn of every run, so
    that the same conversation is always the same prompt. Tuning: set it where tasks ask for the day, and for every run
    that is compared."""

    @property
    def template_options(self) -> dict[str, Any]:
        """What the chat template reads besides the messages: these arguments, and the clock."""
        return {CLOCK: self.date.strftime, **self.chat_template_kwargs}

    @model_validator(mode="after")
    def _one_system_message(self) -> PromptSettings:
        if self.system and self.template:
            raise ValueError("system and template are both set: leave one out")
        return self


@dataclass(frozen=True, slots=True)
class Instructions:
    """What an agent knows of an environment beforehand.

    Attributes:
        system: the system message; empty: none.
        aliases: other words for actions, as `trajectories.answers.as_admissible` takes them.
        advice: a block of experience above the first observation, and with windowed prompts above every one; it is text
            from outside, as observations are. Empty: none.
    """

    system: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""
