"""`rlpipe recipes`: a list of the recipes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.scripts.cli.help import listed
from rlpipe.scripts.main import run

USAGE = "usage: rlpipe recipes\n\nList the recipes of rlpipe train: what each of them is, and its environment.\n"


def main(arguments: Sequence[str]) -> int:
    """Print the list."""
    if list(arguments) in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if arguments:
        raise ConfigError(f"rlpipe recipes takes no arguments, got {arguments[0]!r}")
    rows = [(each.name, _told(each.summary, each.env_id)) for each in RECIPES.values()]
    for line in listed(rows, 32):
        print(line.removeprefix("  "))
    return 0


def _told(summary: str, env_id: str) -> str:
    return summary if env_id in summary else f"{summary} ({env_id})"


if __name__ == "__main__":
    sys.exit(run(["recipes", *sys.argv[1:]]))
