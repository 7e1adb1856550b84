"""What the hooks of MkDocs make of equations, tables and code; test_site.py looks at the pages in a browser."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml", reason='needs the packages of the site: pip install "rlpipe[docs]"')
HOOKS = Path(__file__).parents[2] / "docs" / "hooks"


def hook(name):
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", HOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EQUATIONS, TABLES = hook("equations"), hook("tables")


def mathml(tex, *, is_block=True):
    return EQUATIONS.mathml(tex, is_block=is_block)


def test_relations_and_primes_are_operators():
    found = mathml(r"s' \sim \pi")
    assert '<mo lspace="0" rspace="0">\u2032</mo>' in found
    assert "<mo>\u223c</mo>" in found


@pytest.mark.parametrize(
    ("tex", "mark", "stretchy"),
    [(r"\hat v", "\u02c6", "false"), (r"\widehat{KL}", "\u0302", "true"), (r"\bar Q", "\u00af", "false")],
)
def test_an_accent_is_as_wide_as_what_it_covers(tex, mark, stretchy):
    accent = re.search(r'<mover accent="true">.*<mo stretchy="(\w+)">(.)</mo></mover>', mathml(tex))
    assert accent.groups() == (stretchy, mark)


def test_functions_are_spaced_but_not_from_brackets():
    space = '<mspace width="0.1667em" />'
    assert f"<mi>\u03b1</mi>{space}<mi>log</mi>{space}<mi>x</mi>" in mathml(r"\alpha \log x")
    assert '<mi>tanh</mi><mo stretchy="false">(' in mathml(r"\tanh(x)")
    assert '<mi>clip</mi><mo stretchy="false">(' in mathml(r"\operatorname{clip}(x)")
    assert "<mi>targ</mi>" in mathml(r"V^\mathrm{targ}")


def test_limits_are_below_in_a_displayed_equation_only():
    tex = r"\arg\max_a Q"
    assert re.search(r"<munder><mo [^>]*>arg\u2009max</mo>", mathml(tex))
    assert "<munder>" not in mathml(tex, is_block=False)


def test_formulas_divided_by_a_quad_are_formulas_of_their_own():
    assert mathml(r"a = b, \qquad c = d, \quad e").count("<math ") == 3


def test_an_unknown_command_is_an_error():
    with pytest.raises(ValueError, match=r"\\foo is not known"):
        mathml(r"\foo x")


def table(columns, cell="x"):
    head, row = "<th>a <code>b</code></th>" * columns, f"<td>{cell}</td>" * columns
    html = f"<table>\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n<tr>{row}</tr>\n</tbody>\n</table>"
    return TABLES.on_page_content(html, None, None, None)


def test_the_cells_of_a_table_of_three_columns_are_labelled():
    assert table(3).startswith("<table data-cards>")
    assert table(3).count('<td data-label="a b">') == 3
    assert "data-label" not in table(2)


def test_numbers_and_bars_in_tables():
    assert "<td>50&nbsp;176 a 1</td>" in table(2, "50 176 a 1")
    assert "<span>a|b</span>" in table(2, r"<code>a\|b</code>")


def test_code_breaks_between_words_only():
    long = "tests/helpers/of_a_long_name.py"
    found = TABLES.on_page_content(
        f"<code>--lr {long}</code> <pre><span></span><code>a b</code></pre>", None, None, None
    )
    broken = long.replace("/", "/<wbr>")
    assert f'<code><span>--lr</span> <span class="long">{broken}</span></code>' in found
    assert "<code>a b</code></pre>" in found
