"""The page as one HTML file: nothing is fetched from a network, and no text of an episode can become code.

Texts travel as JSON in which `<`, `>` and `&` are escaped, and the page's own JS only ever sets text, never HTML. The
content security policy names the hash of that JS, so that the browser would run nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

PAGE = Path(__file__).parent / "page"
SCRIPTS = (
    "uplot/uPlot.iife.min.js",
    "base.js",
    "charts.js",
    "tables.js",
    "source.js",
    "episode.js",
    "viewer.js",
    "main.js",
)
STYLES = ("uplot/uPlot.min.css", "style.css")
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render(data: Mapping[str, Any]) -> str:
    """The page with this data in it, which `main.js` reads."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    script, style = _joined(SCRIPTS), _joined(STYLES)
    return template.from_string((PAGE / "page.html").read_text(encoding="utf-8")).render(
        title=", ".join(run["name"] for run in data["runs"]),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),
        data=Markup(embedded(data)),
    )


def embedded(data: Any) -> str:
    """JSON that may stand inside a `<script>`: it cannot end it, whatever the texts in it hold.

    >>> embedded("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign, escaped in ESCAPES.items():
        text = text.replace(sign, escaped)
    return text


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in names)
