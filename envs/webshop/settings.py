"""The options of WebShop."""

from __future__ import annotations

from typing import Literal

from envs.settings import EnvironmentSettings


class WebShopSettings(EnvironmentSettings):
    """Options of WebShop."""

    observation_mode: Literal["text", "text_rich"] = "text"
    """How a page is written, as in the original: `text` joins its pieces by `[SEP]`, `text_rich` marks buttons. Tuning:
    take the one that the results you compare with are of; `text_rich` costs more tokens."""
    human_goals: bool = False
    """Instructions that people wrote, instead of synthetic ones; only the original's data have them. Tuning: take the
    kind that the results you compare with are of."""
