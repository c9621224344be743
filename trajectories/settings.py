"""`Settings`: what every section of a run's configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A typed section: frozen, without unknown keys, and every number finite.

    The docstring under a field says what it means, in which unit, and how to tune it; `docs/configuration.md` is made
    of these docstrings (`cluster/config/reference.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
