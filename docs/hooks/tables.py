"""A hook of MkDocs: tables and code that can be read on a telephone.

Where the page is narrow, each row of a table with three or more columns becomes a card whose cells are labelled with
their column; site.css does that. Code breaks between words only.
"""

from __future__ import annotations

import re
from html import escape, unescape

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_HEADER = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
_ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
# a block of code is in a pre, after an empty span
_INLINE = re.compile(r"(?<!</span>)<code>([^<]+)</code>")
_NUMBER = re.compile(r"(?<=\d) (?=\d{3}\b|%)")
_LONG = 24
"""Characters that are as wide as a cell on a telephone."""


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Label the cells of tables, and mark the words of code."""
    return _INLINE.sub(_words, _TABLE.sub(lambda table: _labelled(_fixed(table[0])), html))


def _fixed(table: str) -> str:
    """Keep the digits of a number together, and take the backslash from a bar in code, as GitHub does."""
    return _INLINE.sub(lambda code: code[0].replace("\\|", "|"), _NUMBER.sub("&nbsp;", table))


def _labelled(table: str) -> str:
    labels = [escape(unescape(_TAG.sub("", header)).strip(), quote=True) for header in _HEADER.findall(table)]
    if len(labels) < 3:
        return table

    def row(found: re.Match[str]) -> str:
        rest = iter(labels)
        return re.sub(r"<td\b", lambda cell: f'{cell[0]} data-label="{next(rest)}"', found[0])

    return _ROW.sub(row, table).replace("<table>", "<table data-cards>")


def _words(code: re.Match[str]) -> str:
    return f"<code>{re.sub(r'[^ ]+', _word, code[1])}</code>"


def _word(found: re.Match[str]) -> str:
    """Return a word that does not break, or one that breaks after a slash, a dot and the like if it is long."""
    word = found[0]
    if len(unescape(word)) > _LONG:
        word = re.sub(r"(?<=[/=,(])(?=\w)|(?<=\.)(?=\w{4})", "<wbr>", word)
        return f'<span class="long">{word}</span>'
    return f"<span>{word}</span>"
