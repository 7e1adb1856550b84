"""`rlpipe recipes`: a table of the recipes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.scripts.main import run

USAGE = "usage: rlpipe recipes\n\nList the recipes: name, algorithm, environment and description.\n"


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    if list(arguments) in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if arguments:
        raise ConfigError(f"rlpipe recipes takes no arguments, got {arguments[0]!r}")
    rows = [("recipe", "algorithm", "environment", "description")]
    rows += [(each.name, each.algorithm, each.env_id, each.summary) for each in RECIPES.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    return 0


if __name__ == "__main__":
    sys.exit(run(["recipes", *sys.argv[1:]]))
