"""The page of `rlpipe report` in a real Chromium, opened from its file, with all other requests refused."""

import base64
import json
from pathlib import Path

import pytest
from chromium import chromium
from folders import write_run

from rlpipe.scripts.main import run
from rlpipe.scripts.reports.statistics import interquartile_mean, probability_of_improvement

pytestmark = pytest.mark.slow

LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
HOSTILE = "</script><img src=x onerror=globalThis.broken=1><b>"
PPO, DQN = (100.0, 300.0, 200.0, 400.0, 250.0), (150.0, 260.0, 300.0)


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of two groups on CartPole-v1, one on Acrobot-v1 and one of hostile names, and an unfinished run."""
    folder = tmp_path_factory.mktemp("report")
    for recipe, scores in (("ppo", PPO), ("dqn", DQN)):
        for seed, score in enumerate(scores):
            write_run(folder / f"runs/{recipe}/{seed}", recipe, seed=seed, score=score, seconds=score)
    (folder / "runs/ppo/0/agent.gif").write_bytes(GIF)
    write_run(folder / "runs/acrobot", score=-80.0, env_id="Acrobot-v1")
    write_run(folder / "runs/cut", seed=9, final=False)
    config = {"seed": 0, "env_id": f"{HOSTILE}-v0", HOSTILE: HOSTILE}
    hostile = write_run(
        folder / "runs" / HOSTILE.replace("/", "."),
        described={"recipe": HOSTILE, "algorithm": HOSTILE, "config": config},
    )
    (hostile / "versions.json").write_text(json.dumps({"commit": HOSTILE, "machine": {HOSTILE: HOSTILE}}))
    assert run(["report", str(folder / "runs"), "--out", str(folder / "report.html"), "--title", HOSTILE]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def opened(browser, report):
    page = open_page(browser, report, LAPTOP)
    yield page
    page.context.close()


@pytest.fixture
def page(opened):
    """The page as it was at first; to load it anew would take a second."""
    opened.asked.clear()
    opened.wrong.clear()
    opened.set_viewport_size(LAPTOP)
    opened.get_by_role("button", name="all", exact=True).click()
    opened.get_by_label("frames", exact=True).check()
    opened.get_by_label("single seeds").check()
    opened.get_by_label("also what is the same").uncheck()
    opened.locator("#first").select_option(label="ppo")
    opened.evaluate("order.column = null; redraw()")
    yield opened
    assert opened.asked == []
    assert opened.wrong == []


def open_page(browser, path, viewport, **options):
    """Open a page; closing it checks that nothing was asked for, and nothing went wrong."""
    context = browser.new_context(viewport=viewport, **options)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.asked, page.wrong = [], []
    address = Path(path).as_uri()

    def answer(route):
        url = route.request.url
        if url == address or url.startswith(("data:", "blob:")):
            route.continue_()
        else:
            page.asked.append(url)
            route.abort()

    context.route("**/*", answer)
    page.on("console", lambda message: page.wrong.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("requestfailed", lambda request: page.wrong.append(request.url))
    page.on("dialog", lambda dialog: page.wrong.append(dialog.message))
    page.goto(address)
    page.wait_for_selector(".plot .main-svg")
    return page


def rows(page):
    """The last word of each row's first column; the hostile run of its own has its settings quoted there."""
    texts = page.locator("#table tbody th").all_inner_texts()
    return [text.strip().split("\n")[-1].split(" ")[-1].strip("'") for text in texts]


def cells(page, label, column):
    row = page.locator("#table tbody tr", has=page.get_by_text(label, exact=True))
    return row.locator("td").nth(column - 1).inner_text().split("\n")[0]


def traces(page, environment):
    plot = "[...document.querySelectorAll('.plot')].find(plot => plot.parentElement.innerText.startsWith(name))"
    found = f"name => ({plot}.data ?? []).map(trace => ({{...trace.meta, x: trace.x, y: trace.y}}))"
    return page.evaluate(found, environment)


def curve(page, kind, group=0):
    return [each for each in traces(page, "CartPole-v1") if (each["kind"], each["group"]) == (kind, group)]


def test_it_asks_for_nothing_and_complains_of_nothing(page):
    assert (page.asked, page.wrong) == ([], [])
    assert page.locator("#summary").inner_text().startswith("10 finished runs, 4 groups, 3 environments; 20")


def test_hostile_names_are_texts(page):
    assert page.evaluate("globalThis.broken") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == HOSTILE
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("#table tbody th", has_text=HOSTILE).count() == 1
    assert page.locator("#choices legend", has_text=HOSTILE).count() == 1
    # plotly reads some HTML in its texts, and shows the name of a curve that is pointed at
    plot = page.locator("figure", has_text=f"{HOSTILE}-v0").locator(".plot")
    plot.evaluate("plot => Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 1}])")
    plot.locator(".hoverlayer text").first.wait_for(state="attached")
    assert plot.locator(".hoverlayer text").first.text_content().startswith(f"{HOSTILE} ")
    assert page.evaluate("globalThis.broken") is None


def test_curves_are_those_of_python(page):
    kinds = [(each["group"], each["kind"]) for each in traces(page, "CartPole-v1")]
    assert kinds == [(0, "band"), *[(0, "seed")] * 5, (0, "iqm"), (2, "band"), *[(2, "seed")] * 3, (2, "iqm")]
    (line,) = curve(page, "iqm")
    assert line["x"] == [25_088, 50_176]
    assert line["y"] == pytest.approx([125, 250])
    (band,) = curve(page, "band")
    _, low, high = interquartile_mean(PPO)
    assert (band["y"][2], band["y"][1]) == pytest.approx((low, high), rel=0.1)
    page.get_by_label("training seconds").check()
    assert curve(page, "seed")[1]["x"][-1] == 400
    page.get_by_label("single seeds").uncheck()
    assert [each["kind"] for each in traces(page, "CartPole-v1")] == ["band", "iqm"] * 2
    assert [each["kind"] for each in traces(page, "Acrobot-v1")] == ["iqm"]


def test_sorting_by_mouse_and_by_keyboard(page):
    assert rows(page) == ["ppo", "Acrobot-v1", "dqn", HOSTILE.rpartition(" ")[-1]]
    heading = page.locator("#table th", has=page.get_by_role("button", name="return (IQM)"))
    assert heading.get_attribute("aria-sort") is None
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(cells(page, label, 5)) for label in ("ppo", "dqn")] == pytest.approx([250.0, 236.7])
    falling = rows(page)
    assert falling[:2] == ["ppo", "dqn"]
    assert falling[-1] == "Acrobot-v1"
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert rows(page) == falling[::-1]
    # back to the column before it, and sort by that
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") is None
    assert page.locator("#table th[aria-sort]").inner_text().startswith("training seconds")


def test_an_unchecked_group_is_gone(page):
    page.locator("input[data-group='2']").uncheck()
    assert "dqn" not in rows(page)
    assert {each["group"] for each in traces(page, "CartPole-v1")} == {0}
    assert page.locator("#chosen").inner_text() == "7 of 10 finished runs"
    assert "dqn" not in page.locator("#fields thead").inner_text()
    page.get_by_role("button", name="none").click()
    assert rows(page) == []
    assert page.locator("#plots figure:visible").count() == 0
    assert page.locator("#gif-list figure:visible").count() == 0
    page.get_by_role("button", name="all", exact=True).click()
    assert len(rows(page)) == 4
    assert page.locator("#gif-list figure:visible").count() == 1


def test_an_unchecked_seed_is_gone_from_every_figure(page):
    before = cells(page, "ppo", 6)
    page.get_by_label("ppo, seed 3").uncheck()
    assert cells(page, "ppo", 2) == "0, 1, 2, 4"
    assert cells(page, "ppo", 7) == "100.0  300.0  200.0  250.0"
    assert len(curve(page, "seed")) == 4
    # the page's own statistics, with other draws than Python's
    expected = interquartile_mean([100.0, 300.0, 200.0, 250.0])
    found = [float(cells(page, "ppo", 5)), *map(float, cells(page, "ppo", 6).split(" to "))]
    assert found == pytest.approx(expected, abs=13)
    assert found[0] == 225.0
    (line,) = curve(page, "iqm")
    assert line["y"] == pytest.approx([112.5, 225])
    assert page.locator("input[data-group='0']").evaluate("box => box.indeterminate")
    page.get_by_label("ppo, seed 3").check()
    assert cells(page, "ppo", 6) == before


@pytest.mark.parametrize("turned", [False, True])
def test_probability_of_improvement(page, turned):
    page.locator("#first").select_option(label="dqn" if turned else "ppo")
    assert page.locator("#second option").all_inner_texts() == ["ppo" if turned else "dqn"]
    p, low, high = probability_of_improvement(PPO, DQN)
    if turned:
        p, low, high = 1 - p, 1 - high, 1 - low
    text = page.locator("#probability p").inner_text()
    assert f"P(X > Y) = {p:.2f}, 95 % interval " in text
    found = [float(word) for word in text.split("interval ")[1].split(" to ")]
    assert found == pytest.approx([low, high], abs=0.006)
    assert page.locator("#first option").all_inner_texts() == ["ppo", "dqn"]


def test_settings_show_what_differs(page):
    names = page.locator("#fields tbody th[scope=row]")
    assert {"recipe", "commit", "lr"} <= set(names.all_inner_texts())
    # the runs of one group, which differ in nothing; commit and machine are always there
    page.get_by_role("button", name="none").click()
    assert names.count() == 0
    page.locator("input[data-group='0']").check()
    assert names.all_inner_texts() == ["commit", f"machine: {HOSTILE}"]
    assert page.locator("#fields .differs").count() == 0
    page.get_by_label("also what is the same").check()
    assert {"lr", "hidden", "env_id"} <= set(names.all_inner_texts())
    page.locator("input[data-group='1']").check()
    assert page.locator("#fields tr", has_text="env_id").locator(".differs").all_inner_texts() == ["Acrobot-v1"]


def test_unfinished_runs_and_gifs(page):
    cells_ = page.locator("#unfinished-table td").all_inner_texts()
    assert cells_[:5] == ["ppo", "CartPole-v1", "9", "50,176 of 50,000", "stopped before any checkpoint"]
    image = page.locator("#gif-list img")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
    assert image.get_attribute("alt") == "An episode of ppo on CartPole-v1, seed 0"
    caption = page.locator("#gif-list figcaption").inner_text()
    assert caption.endswith("on CartPole-v1, seed 0; evaluation return of the run (mean): 100.0")


def test_the_mode_bar_covers_no_curve(page):
    plot = page.locator(".plot").first
    plot.hover()
    bar, curves = (plot.locator(part).first.bounding_box() for part in (".modebar", ".bg, .nsewdrag"))
    assert bar["y"] + bar["height"] <= curves["y"]


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE])
def test_nothing_overflows_sideways(page, viewport):
    page.set_viewport_size(viewport)
    page.get_by_label("also what is the same").check()
    # the plots follow after a moment
    page.wait_for_timeout(300)
    width = viewport["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ends = page.evaluate(
        "[...document.querySelectorAll('section, .box, .plot, .main-svg, select, fieldset')]"
        ".filter(each => each.checkVisibility()).map(each => each.getBoundingClientRect().right)"
    )
    assert max(ends) <= width


def test_colors_follow_the_scheme(page):
    color = "getComputedStyle(document.body).backgroundColor"
    paint = "[...document.querySelectorAll('.plot')].at(-1).data.at(-1).line.color"
    light = page.evaluate(f"[{color}, {paint}]")
    page.emulate_media(color_scheme="dark")
    # the browser tells the page of it a little later
    for _ in range(100):
        if (dark := page.evaluate(f"[{color}, {paint}]"))[1] != light[1]:
            break
        page.wait_for_timeout(50)
    # paper is light
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    printed = page.evaluate(f"[{color}, {paint}]")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(f"[{color}, {paint}]") == dark
    page.emulate_media(color_scheme="light")
    assert light == printed == ["rgb(255, 255, 255)", "#0072b2"]
    assert dark == ["rgb(20, 23, 27)", "#56b4e9"]


def test_a_page_of_unfinished_runs_only(browser, tmp_path):
    write_run(tmp_path / "runs", final=False)
    assert run(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "x.html")]) == 0
    context = browser.new_context(viewport=PHONE)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "x.html").as_uri())
    assert page.locator("section:visible h2").all_inner_texts() == [
        "Unfinished runs",
        "How the figures were computed",
    ]
    assert wrong == []
    context.close()
