"""The documentation site in a real Chromium, from disk: nothing is cut or wider than the page, the search works."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WIDTHS = (1400, 1000, 390)
SOURCES = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "algorithms").glob("*.md")]
# those of the reference, which all come from one template, are slow to lay out
PAGES = [
    *sorted(source.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for source in SOURCES),
    *("examples.html", "reference/rlpipe.html", "reference/pipelines.html"),
]
EQUATIONS = sorted(page.stem for page in (ROOT / "docs" / "algorithms").glob("*.md"))
# what is wider than its column has a scroll box of its own
WIDER = """() => {
    const width = document.documentElement.clientWidth;
    const boxes = "pre, .equation, .md-typeset__scrollwrap, .headerlink, svg";
    const wide = [...document.querySelectorAll(".md-content *")].filter((each) =>
        !each.closest(boxes) && each.getBoundingClientRect().right > width + 0.5);
    return [document.documentElement.scrollWidth - width, wide.map((each) => each.outerHTML.slice(0, 80))];
}"""
TALLER = """() => [...document.querySelectorAll(".equation")]
    .filter((box) => box.scrollHeight > box.clientHeight)
    .map((box) => `${box.scrollHeight} > ${box.clientHeight}: ${box.textContent}`)"""
ONLY_EQUATIONS = """
    * { visibility: hidden !important; }
    .equation { overflow: visible !important; }
    .equation, .equation * { visibility: visible !important; }"""
BOXES = """() => [...document.querySelectorAll(".equation")].map((box) => box.getBoundingClientRect())
    .map((box) => [box.top + scrollY, box.bottom + scrollY])"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if os.environ.get("RLPIPE_REQUIRE_BROWSER") != "1":
        pytest.importorskip("material", reason='needs the packages of the site: pip install "rlpipe[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser, site):
    """A page from whose `open` one gets another, with its fonts loaded; it notes what it asks of the network."""
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)

    def open_page(name):
        page.goto((site / name).as_uri())
        page.add_style_tag(content="* { transition: none !important; }")
        page.evaluate("document.fonts.ready.then(() => true)")
        page.wait_for_function(
            "document.querySelectorAll('.md-typeset table:not([class])').length"
            " === document.querySelectorAll('.md-typeset__table > table').length"
        )
        return page

    page.open = open_page
    yield page
    context.close()
    assert asked == []


def test_nothing_is_wider_than_the_page_and_no_equation_taller_than_its_box(page):
    # the index is large, and each page would read it
    page.context.route("**/search_index.js", lambda route: route.abort())
    found = []
    for name in PAGES:
        page.open(name)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            by, elements = page.evaluate(WIDER)
            found += [f"{name} at {width}: the page, by {by}"] * (by > 0)
            found += [f"{name} at {width}: {each}" for each in [*elements, *page.evaluate(TALLER)]]
    assert found == []


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations_draw_nothing_above_or_below_their_boxes(page, name):
    page.open(f"algorithms/{name}.html")
    page.add_style_tag(content=ONLY_EQUATIONS)
    boxes = page.evaluate(BOXES)
    part = {"x": 0, "y": 0, "width": WIDTHS[0], "height": boxes[-1][1] + 40}
    drawn = np.asarray(Image.open(BytesIO(page.screenshot(full_page=True, clip=part))).convert("L"))
    ink = (drawn != drawn[0, 0]).any(axis=1)
    outside = np.ones_like(ink)
    for top, bottom in boxes:
        assert ink[round(top) : round(bottom)].any()
        outside[round(top) : round(bottom)] = False
    assert not (ink & outside).any(), np.flatnonzero(ink & outside)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_font_of_the_site_has_every_character_of_its_equations(page, name):
    page.open(f"algorithms/{name}.html")
    tools = page.context.new_cdp_session(page)
    tools.send("DOM.enable")
    tools.send("CSS.enable")
    root = tools.send("DOM.getDocument")["root"]["nodeId"]
    found = tools.send("DOM.querySelectorAll", {"nodeId": root, "selector": "math"})["nodeIds"]
    used = [tools.send("CSS.getPlatformFontsForNode", {"nodeId": each})["fonts"] for each in found]
    assert len(used) > 5
    assert {font["familyName"] for fonts in used for font in fonts} == {"STIX Two Math"}
    assert all(font["isCustomFont"] for fonts in used for font in fonts)


@pytest.mark.parametrize("name", ["index.html", "algorithms/ppo.html"])
def test_the_search_finds_a_page_without_a_server(page, name):
    page.open(name)
    page.locator(".md-search__input").click()
    page.keyboard.type("truncated")
    found = page.locator(".md-search-result__link").first
    found.wait_for()
    found.click()
    page.wait_for_url("file://**")
    assert "truncated" in page.locator(".md-content").inner_text().lower()
