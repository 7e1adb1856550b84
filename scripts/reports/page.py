"""The page of `rlpipe report`: one file that loads nothing from outside.

Its security policy allows only the page's own scripts, by their digests, and the pictures in it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

SCRIPTS = ("numbers.js", "tables.js", "curves.js", "page.js")


def make_page(data: Mapping[str, Any], plotly: str) -> str:
    """Fill in `page.html` from the result of `make_data`, a title, command, date and version, and plotly's source."""
    scripts = [_script(plotly), _script("\n".join(map(_read, SCRIPTS)))]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return Template(_read("page.html")).substitute(
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'",
        title=html.escape(data["title"]),
        style=_read("page.css"),
        plotly=scripts[0],
        scripts=scripts[1],
        data=as_json(data),
    )


def as_json(data: Mapping[str, Any]) -> str:
    """JSON without `<`, `>` and `&`, so that it cannot end a `<script>` element or start a comment in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _script(source: str) -> str:
    """JavaScript that cannot end a `<script>` element; line ends are newlines, as browsers read them for the digest."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _read(name: str) -> str:
    return (resources.files("rlpipe.scripts.reports") / name).read_text(encoding="utf-8")
