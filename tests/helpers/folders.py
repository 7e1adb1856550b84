"""Run folders that are written by hand."""

import dataclasses
import json
from pathlib import Path

from rlpipe.pipelines.algorithms.recipes import RECIPES


def write_run(
    folder,
    recipe="ppo",
    seed=0,
    score=1.0,
    *,
    frames=50_176,
    seconds=4.0,
    final=True,
    described=None,
    successes=None,
    **changes,
):
    """A run folder with evaluations at half of its frames, and at its end."""
    config = {**dataclasses.asdict(RECIPES[recipe].config()), **changes, "seed": seed}
    content = described or {"recipe": recipe, "algorithm": RECIPES[recipe].algorithm, "config": config}
    metrics = [{"frames": frames // 2, "seconds": seconds / 2}, {"frames": frames, "seconds": seconds}]
    evaluations = [{"frames": frames // 2, "final": False, "returns": [score / 2], "lengths": [1]}]
    if successes is not None:
        evaluations[0]["successes"] = [0.0]
    if final:
        # the score is a mean over the episodes
        returns = [score - 1, score + 1]
        evaluations.append({"frames": frames, "final": True, "returns": returns, "lengths": [1, 1]})
        evaluations[-1] |= {} if successes is None else {"successes": successes}
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(content))
    for name, rows in (("metrics", metrics), ("evaluations", evaluations)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
