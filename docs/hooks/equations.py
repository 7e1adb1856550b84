"""A hook of MkDocs: equations become MathML, which browsers show without a script.

latex2mathml converts; this adds what it leaves out: spaces around named functions, relations and primes as operators,
accents as wide as what they cover, limits above and below. Parts divided by quads are formulas of their
own, so that they go into a line each where the page is narrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from xml.etree import ElementTree

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

Element = ElementTree.Element
NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", NAMESPACE)

_TEX = {
    r"\\(begin|end)\{(aligned|split)\}": r"\\\1{align*}",
    r"\\arg\s*\\(max|min)": r"\\operatorname{arg \1}",
    r"\\operatorname\*?\{arg\\,\s*(max|min)\}": r"\\operatorname{arg \1}",
    r"\\operatorname\*": r"\\operatorname",
}
"""Replacements for what latex2mathml does not know."""
_UNDER = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
_LIMITS = ("\u2211", "\u220f", "max", "min", "arg\u2009max", "arg\u2009min")
"""Operators that have their limits above and below in a displayed equation."""
_ACCENTS = {"^": "\u02c6", "~": "\u02dc", "\u00af": "\u00af"}
_WIDE = {"^": "\u0302", "~": "\u0303", "\u00af": "\u203e", "\u2015": "\u203e"}
"""The characters of accents; of those on more than one letter, which the font has in several widths."""
_THIN = "0.1667em"
_MATHS = re.compile(r'<(span|div) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the equations of a page."""

    def as_mathml(found: re.Match[str]) -> str:
        tex = unescape(found[2]).strip()
        try:
            return mathml(tex, is_block=found[1] == "div")
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: cannot convert {tex!r}: {error!r}") from error

    return _MATHS.sub(as_mathml, html)


def mathml(tex: str, *, is_block: bool) -> str:
    """Return an equation as MathML, a displayed one in a box.

    Raises:
        ValueError: if it has a command of TeX that is not known.
    """
    for pattern, instead in _TEX.items():
        tex = re.sub(pattern, instead, tex)
    root = ElementTree.fromstring(convert(tex, display="block" if is_block else "inline"))
    for element in list(root.iter()):
        if (element.text or "").startswith("\\"):
            raise ValueError(f"{element.text} is not known")
        _mend_token(element)
        _mend_accent(element)
    for element in list(root.iter()):
        if is_block and _name(element) in _UNDER and element[0].text in _LIMITS:
            element.tag = _tag(_UNDER[_name(element)])
        _space_functions(element)
    if not is_block:
        return ElementTree.tostring(root, encoding="unicode")
    return f'<div class="equation">{"".join(_divided(root))}</div>'


def _mend_token(element: Element) -> None:
    """Make operators of relations and primes, identifiers of functions without limits, and space what has letters."""
    name, text = _name(element), (element.text or "")
    if name == "mi" and text == "~":
        element.tag, element.text = _tag("mo"), "\u223c"
    elif name == "mi" and text in ("\u2032", "\u2033"):
        element.tag = _tag("mo")
        element.attrib |= {"lspace": "0", "rspace": "0"}
    elif name == "mo" and text.removeprefix("arg") in ("max", "min"):
        element.text = text.replace("arg", "arg\u2009")
        element.attrib |= {"lspace": _THIN, "rspace": _THIN}
    elif name == "mo" and text == "|" and element.get("form"):
        # or it touches what it encloses
        element.set("rspace" if element.get("form") == "prefix" else "lspace", "0.1em")
    elif name == "mo" and re.match("[a-zA-Z]", text):
        element.tag = _tag("mi")
    elif name == "mrow" and len(element) > 1 and all(each.get("mathvariant") == "normal" for each in element):
        # upright letters are one word
        element.tag, element.text = _tag("mi"), "".join(element.itertext())
        element[:] = []


def _mend_accent(element: Element) -> None:
    if _name(element) != "mover" or element[1].text not in _WIDE:
        return
    mark, wide = element[1], len("".join(element[0].itertext())) > 1
    mark.text = (_WIDE if wide else _ACCENTS).get(mark.text or "", "\u00af")
    mark.set("stretchy", str(wide).lower())
    element.set("accent", "true")


def _space_functions(row: Element) -> None:
    """Put the thin spaces of TeX around the names of functions, except next to operators and brackets."""
    spaced: list[Element] = []
    for child in row:
        before = spaced[-1] if spaced else None
        if before is not None and (_is_function(before) or _is_function(child)):
            neighbour = child if _is_function(before) else before
            if not _is_operator(neighbour):
                spaced.append(ElementTree.Element(_tag("mspace"), {"width": _THIN}))
        spaced.append(child)
    if _name(row) in ("mrow", "math", "mtd"):
        row[:] = spaced


def _is_function(element: Element) -> bool:
    """Whether it is a name of several letters, perhaps with an index; `mo` has spaces of its own."""
    core = element[0] if _name(element) in ("msub", "msup", "msubsup") else element
    return _name(core) == "mi" and len(core.text or "") > 1


def _is_operator(element: Element) -> bool:
    """Whether it is an operator or a space, or begins with a bracket."""
    first = element
    while len(first):
        first = first[0]
    return _name(first) in ("mo", "mspace")


def _divided(root: Element) -> Iterator[str]:
    row = root[0]
    part = ElementTree.Element(root.tag, root.attrib)
    for child in [*row, None]:
        if child is None or (_name(child) == "mspace" and child.get("width") in ("1em", "2em")):
            yield ElementTree.tostring(part, encoding="unicode")
            part = ElementTree.Element(root.tag, root.attrib)
        else:
            part.append(child)


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"
