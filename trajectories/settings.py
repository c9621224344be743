"""`Settings`: what every section of a run's configuration has in common."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _an_address(address: str) -> str:
    if not re.match(r"https?://\w", address):
        raise ValueError("it is no address: write it as http://HOST:PORT/v1")
    return address


Address = Annotated[str, AfterValidator(_an_address)]
"""Where an OpenAI-compatible endpoint is."""


class Settings(BaseModel):
    """A typed section: frozen, without unknown keys, and every number finite.

    The docstring under a field says what it means, in which unit, and how to tune it; `docs/configuration.md` is made
    of these docstrings (`cluster/config/reference.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
