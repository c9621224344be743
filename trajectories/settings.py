"""`Settings`: what every section of a run's configuration has in common."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def address_fault(address: str) -> str:
    """Why an endpoint's address is of no use, in words that do not say it, since it may hold a password; empty where it
    is fine.

    >>> address_fault("http://localhost:8000/v1"), address_fault("localhost:8000")
    ('', 'it is no address: write it as http://HOST:PORT/v1')
    """
    if without_password(address) != address:
        return "it holds a name or password, which logs and config.yaml would show: leave that out, set OPENAI_API_KEY"
    return "" if re.match(r"https?://\w", address) else "it is no address: write it as http://HOST:PORT/v1"


def without_password(text: str) -> str:
    """A text with what stands before the host of its addresses left out.

    >>> without_password("at http://me:secret@host/v1")
    'at http://…@host/v1'
    """
    return re.sub(r"(https?://)[^/?#\s]*@", r"\1…@", text)


def _an_address(address: str) -> str:
    if fault := address_fault(address):
        raise ValueError(fault)
    return address


Address = Annotated[str, AfterValidator(_an_address)]
"""Where an OpenAI-compatible endpoint is."""


class Settings(BaseModel):
    """A typed section: frozen, without unknown keys, and every number finite.

    The docstring under a field says what it means, in which unit, and how to tune it; `docs/configuration.md` is made
    of these docstrings (`cluster/config/reference.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
