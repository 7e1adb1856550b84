"""Links and paths in the documents exist, recipes are complete, and messages are those of the code."""

import re
from pathlib import Path

from rlpipe.pipelines.algorithms.recipes import RECIPES

ROOT = Path(__file__).parents[2]
FOLDERS = {"rlpipe", "losses", "modules", "pipelines", "scripts", "tests", "docs", "examples"}


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            path = page.parent / target.split("#")[0]
            assert target.startswith("https://") or path.exists(), f"{page.name}: {target}"


def test_files_that_pages_name_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"`((?:\w+/)+\w*(?:\.\w+)?)`", page.read_text()):
            # what a contributor would add
            new = name.endswith("/soft_dqn.py")
            assert new or name.split("/")[0] not in FOLDERS or (ROOT / name).exists(), f"{page.name}: {name}"


def test_each_recipe_is_in_the_results_and_the_readme_has_the_same_figures():
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "docs/results.md"))
    for name in RECIPES:
        assert f"\nrlpipe train {name} " in results
        assert f"\n| `{name}` |" in results
    short = re.findall(r"^\| `(\S+)` \|[^|]+\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", readme, re.MULTILINE)
    assert len(short) > 8
    for name, environment, *figures in short:
        full = re.search(rf"^\| `{name}` \| ([^|]+) \| [^|]+ \|(.*)\|$", results, re.MULTILINE)
        assert full[1] == environment
        assert full[2].startswith(f" {' | '.join(figures)} |"), name


def test_the_number_of_recipes_in_the_readme_is_right():
    numbers = {
        each: 20 + at for at, each in enumerate(["twenty", "twenty-one", "twenty-two", "twenty-three", "twenty-four"])
    }
    assert numbers[re.search(r"has all (\S+) recipes", (ROOT / "README.md").read_text())[1]] == len(RECIPES)


def test_the_start_page_takes_sections_that_the_readme_has():
    readme, start = ((ROOT / name).read_text() for name in ("README.md", "docs/index.md"))
    named = re.findall(r"<!-- README.md: (.+) -->", start)
    assert named
    assert all(f"\n## {each}\n" in readme for each in named)


def test_messages_of_troubleshooting_are_those_of_the_code():
    # adjacent string literals are one, and a part in <...> stands for any text
    folders = [ROOT / name for name in ("rlpipe", "losses", "modules", "pipelines", "scripts")]
    texts = [file.read_text() for folder in folders for file in folder.rglob("*.py")]
    source = "\n".join(re.sub(r'"\s*\n\s*f?"', "", text).replace('\\"', '"') for text in texts)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`|]+)` \|", page, re.MULTILINE)
    assert len(messages) > 40
    for message in messages:
        if "frames_per_batch" in message:
            continue  # TorchRL's
        for part in re.split(r"<[^>]*>", message):
            assert part.strip() in source, f"{message}: {part!r} is not in the code"
