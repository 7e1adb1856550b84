"""The files that pages show and change: an algorithm of the page, its versions, options, and the examples."""

import itertools
import re
import shutil
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def changed(source, diff):
    """The source after a diff without line numbers, whose parts are divided by `@@`."""
    for part in diff.split("\n@@\n"):
        lines = [line or " " for line in part.splitlines()]
        assert {line[0] for line in lines} <= set(" +-"), part
        before, after = ("".join(line[1:] + "\n" for line in lines if line[0] != sign) for sign in "+-")
        assert source.count(before) == 1, f"these lines are there {source.count(before)} times:\n{before}"
        source = source.replace(before, after)
    return source


def versions(blocks):
    """The algorithm that a page's blocks show, after each change to it, with the line of the block."""
    source = next((block.text + "\n" for block in blocks if "def build(" in block.text), None)
    if source is None:
        return []
    found = [(0, source)]
    for block in blocks:
        if block.language == "diff":
            found.append((block.line, changed(found[-1][1], block.text)))
    return found


def write_files(blocks, commands):
    """Write the files that commands train: examples, and under any other name the last version of the page's."""
    for word in {word for words in commands for word in words if re.fullmatch(r"(\w+/)?\w+\.py", word)}:
        path, known = Path(word), versions(blocks)
        if path.parent.name == "examples":
            path.parent.mkdir(exist_ok=True)
            # a test may have loaded the example itself
            sys.modules.pop(path.stem, None)
            shutil.copy(EXAMPLES / path.name, path)
        elif path.parent == Path() and known:
            path.write_text(known[-1][1])
    options = next((block.text for block in blocks if block.language == "yaml"), '{"recipe": "ppo"}')
    for words in commands:
        for path in [Path(after) for before, after in itertools.pairwise(words) if before == "--config"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(options if path.suffix == ".yaml" else '{"recipe": "ppo"}')
