"""Pages on algorithms: excerpts are the code, glossaries have the logged metrics, tables the options."""

import dataclasses
import json
import re
import textwrap
from pathlib import Path

import pytest

from rlpipe import find_recipe, run_recipe
from rlpipe.pipelines.algorithms.recipes import RECIPES, config_class
from rlpipe.pipelines.config.continuous import ContinuousConfig
from rlpipe.pipelines.config.groups import (
    ActionNoiseConfig,
    ActorCriticConfig,
    BufferConfig,
    PolicyGradientConfig,
    ReplayConfig,
    RolloutConfig,
)
from rlpipe.pipelines.config.q_network import QNetworkConfig
from rlpipe.pipelines.config.tabular import ActionValueConfig, TabularConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
ALGORITHMS = {
    "ppo": ["ppo"],
    "dqn": ["dqn", "qr_dqn"],
    "a2c": ["a2c"],
    "sac": ["sac"],
    "td3": ["td3"],
    "reinforce": ["reinforce"],
    "tabular": ["q_learning", "sarsa", "policy_gradient"],
}
GROUPS = (
    RolloutConfig,
    PolicyGradientConfig,
    ActorCriticConfig,
    BufferConfig,
    ReplayConfig,
    ContinuousConfig,
    ActionNoiseConfig,
    QNetworkConfig,
    TabularConfig,
    ActionValueConfig,
)
DEEP = {"eval_every": 10_000, "final_eval_episodes": 1}
TINY = {"hidden": (8,), "minibatch_size": 8, "warmup_frames": 16}
RUNS = {
    # the limit adds a metric
    "ppo": [("ppo", {"total_frames": 2048, **limit, **DEEP}) for limit in ({}, {"target_kl": 0.02})],
    "dqn": [(name, {"total_frames": 2048, **DEEP}) for name in ("dqn", "qr-dqn")],
    **{name: [(name, {"total_frames": 64, **TINY, **DEEP})] for name in ("sac", "td3")},
    "a2c": [("a2c", {"total_frames": 2048, **DEEP})],
    # the baseline adds metrics of its own
    "reinforce": [("reinforce", {"total_frames": 2048, "baseline": True, **DEEP})],
    "tabular": [
        (name, {"total_frames": 500, **DEEP}) for name in ("q-learning/maze", "sarsa/maze", "policy-gradient/maze")
    ],
}


def text(page):
    return (ROOT / "docs" / page).read_text()


def rows(page, heading):
    """Return the cells of each row of the table under a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text(page), re.DOTALL | re.MULTILINE)
    assert section, f"{page} has no {heading}"
    lines = [line for line in section.group(1).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(page, heading):
    return {name for row in rows(page, heading) for name in re.findall(r"`(\w+)`", row[0])}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Return the metrics that short runs of the recipes of each page log."""
    keys = {}
    for page, runs in RUNS.items():
        keys[page] = set()
        for name, options in runs:
            folder = tmp_path_factory.mktemp("runs") / name.replace("/", "-")
            run_recipe(name, folder=folder, **options)
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            keys[page].update(key for line in lines for key in json.loads(line))
    return keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_excerpt_is_in_the_file_that_it_names(page):
    excerpts = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(excerpts) == page.read_text().count("```python") > 2
    for file, code in excerpts:
        lines, source = code.splitlines(), (ROOT / file).read_text().splitlines()
        assert len(lines) <= 10, f"{page.name}: {code}"
        windows = ("\n".join(source[at : at + len(lines)]) for at in range(len(source)))
        assert any(textwrap.dedent(window) == "\n".join(lines) for window in windows), f"{page.name}, {file}:\n{code}"


@pytest.mark.parametrize("page", ALGORITHMS)
def test_the_glossary_names_what_is_logged_and_nothing_else(page, logged):
    own, common = names(f"algorithms/{page}.md", "What is logged"), names("metrics.md", "In every line")
    assert logged[page] <= own | common
    assert own <= logged[page]
    assert not own & common


def test_the_common_metrics_are_logged_and_every_page_leads_to_them(logged):
    assert names("metrics.md", "In every line") <= set.union(*logged.values())
    assert all("](../metrics.md)" in page.read_text() for page in PAGES)


@pytest.mark.parametrize("page", ALGORITHMS)
def test_the_options_are_all_there_with_their_defaults(page):
    """The options of the algorithm's own Config, and those that it shares with few others; a page of two algorithms has
    `1` or `2` where their defaults differ."""
    stated = {row[0].strip("`"): row[1].replace("`", "") for row in rows(f"algorithms/{page}.md", "Options")}
    options = {}
    for algorithm in ALGORITHMS[page]:
        cls = config_class(algorithm)
        homes = [each for each in cls.__mro__ if each.__module__ == cls.__module__ or each in GROUPS]
        own = {"max_grad_norm"} | {name for each in homes for name in vars(each).get("__annotations__", {})}
        for each in dataclasses.fields(cls):
            if each.name in own:
                options.setdefault(each.name, {})[str(each.default)] = None
    assert stated == {name: " or ".join(defaults) for name, defaults in options.items()}


def test_each_recipe_has_its_result_on_its_page_as_in_the_results():
    """Returns are equal; a row may say more about its seconds."""
    results = text("results.md")
    for name in RECIPES:
        page = next(page for page, group in ALGORITHMS.items() if find_recipe(name).algorithm in group)
        row = re.search(rf"^\| `{name}` \|.*\| ([^|]+) \| ([^|]+) \|$", results, re.MULTILINE)
        stated = re.search(rf"^\| `rlpipe train {name} --seed S` \|.*$", text(f"algorithms/{page}.md"), re.MULTILINE)
        assert stated, f"{page}.md has no result of {name}"
        assert all(figure in stated.group() for figure in row.groups()), f"{page}.md, {name}: {row.group()}"


def test_mathematics_is_in_blocks_that_both_renderers_take():
    for page in PAGES:
        blocks = page.read_text().split("$$")
        assert len(blocks) % 2, f"{page.name} has an open block"
        for block in blocks[1::2]:
            assert block[0] == block[-1] == "\n", f"{page.name}: {block}"
            # Markdown takes these for escapes
            assert not re.search(r"\\[^a-zA-Z]|\*", block), f"{page.name}: {block}"
