"""The `experience` section of a run's configuration. Imports no torch: a configuration is checked in no time."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from trajectories.settings import Address, Settings

POLICY = "policy"
"""In place of an endpoint: the policy that is trained."""


class ExperienceSettings(Settings):
    """Experience in prompts: advice in words for each kind of task, judged by the run's own episodes and, where a chat
    model is named, made of them (docs/experience.md)."""

    enabled: bool = False
    """Prompts of rollouts and evaluations carry the experience of their kind of task. Tuning: on for models that follow
    advice; compare by the evaluation's own row without it."""
    memory: str | None = None
    """Folder or object store's URI of the memory; null: RUN/memory. Tuning: name one to share it among runs; on a
    cluster it must lie where all nodes see it."""
    read_only: bool = False
    """The memory stays as it is: its advice is shown and measured, nothing is written. Tuning: on where runs are
    compared, so that all read the same."""
    pairs: float = Field(default=0.25, ge=0, lt=1)
    """Share of the members of every group that play without experience; rounded, but one at least. The difference of
    success is the utility that items are ranked and dropped by. Tuning: 0.25; 0 measures nothing, and drops nothing."""
    max_tokens: PositiveInt = 256
    """Tokens that the block may have in a prompt; items that do not fit are left out, the most useful come first.
    Tuning: some 20 tokens an item; more where the model's context is long."""
    half_life: PositiveFloat = 200.0
    """Pairs of a kind of task after which the evidence of an older one counts half. Tuning: fewer where the policy
    changes fast, so that old evidence says little."""
    base_url: Address | Literal["policy"] | None = None
    """OpenAI-compatible endpoint whose model makes advice of episodes; its key is OPENAI_API_KEY. `policy`: the run's
    own engines, whose rollouts and publications then wait for its replies. Null: nothing new is learned, what there is
    is ranked and dropped. Tuning: a server of its own where there is a machine for it."""
    model: str | None = None
    """Name of that model, as the endpoint knows it; none with `policy`. Tuning: larger than the policy."""
    token_budget: PositiveInt | None = None
    """Tokens, read and written together, after which the chat model is asked nothing more; null: no end. Tuning: some
    30,000 a round of learning, which takes five groups of a kind."""
    embedder: str | None = None
    """Folder or hub name of the sentence-embedding model that finds related kinds of tasks; null: the packaged
    MiniLM. Tuning: the one that made the memory, since vectors of two do not compare."""

    @property
    def by_policy(self) -> bool:
        """New advice is made by the run's own engines."""
        return self.learns and self.base_url == POLICY

    @property
    def learns(self) -> bool:
        """New advice is made of the run's episodes."""
        return self.enabled and self.base_url is not None

    def without(self, members: int) -> int:
        """Of a group of so many members, those that play without experience: one at least, unless `pairs` is 0, and
        never all.

        >>> [ExperienceSettings(pairs=0.25).without(members) for members in (1, 2, 4, 8)]
        [0, 1, 1, 2]
        """
        return min(members - 1, max(1, round(self.pairs * members))) if self.pairs else 0

    @field_validator("memory", "embedder")
    @classmethod
    def _at_home(cls, path: str | None) -> str | None:
        return os.path.expanduser(path) if path else None

    @model_validator(mode="after")
    def _an_endpoint_has_a_model(self) -> ExperienceSettings:
        if self.base_url == POLICY:
            if self.model is not None:
                raise ValueError("base_url=policy asks the policy itself, which needs no name: leave out model")
        elif (self.base_url is None) != (self.model is None):
            missing = "model" if self.model is None else "base_url"
            raise ValueError(f"base_url and model belong together: set experience.{missing} too")
        return self

    @model_validator(mode="after")
    def _what_is_learned_is_written(self) -> ExperienceSettings:
        if self.read_only and self.base_url is not None:
            raise ValueError(
                "read_only writes nothing down, so there is nothing to learn: leave out base_url and model"
            )
        return self
