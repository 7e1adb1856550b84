"""`curve.png`: training return against frames, its moving mean, and the evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import read_lines


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each position, of fewer at the start; `[n]` to `[n]`."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return (sums[stop] - sums[start]) / (stop - start)


def draw_curve(folder: Path, window: int) -> Path:
    """Draw a run folder's `curve.png` from its journals, with the moving mean of `window` episodes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    described = json.loads((folder / layout.CONFIG).read_text())
    episodes = [(row["frames"], value) for row in read_lines(folder / layout.METRICS) for value in row["returns"]]
    evaluations = read_lines(folder / layout.EVALUATIONS)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if episodes:
        frames, returns = np.array(episodes, dtype=float).T
        axes.plot(frames, returns, ".", color="tab:blue", alpha=0.4, markersize=5, markeredgewidth=0, label="episode")
        axes.plot(frames, moving_mean(returns, window), color="tab:blue", label=f"mean of {window} episodes")
    if evaluations:
        points = np.array([(row["frames"], np.mean(row["returns"])) for row in evaluations])
        spread = np.array([np.percentile(row["returns"], [10, 90]) for row in evaluations]).T
        # a mean outside of the percentiles has no bar on that side
        errors = np.maximum(0.0, (points[:, 1] - spread[0], spread[1] - points[:, 1]))
        style: dict[str, Any] = {"fmt": "o", "color": "tab:orange", "capsize": 3, "label": "evaluation (10 to 90 %)"}
        axes.errorbar(points[:, 0], points[:, 1], yerr=errors, **style)
    config = described["config"]
    title = literal(f"{described['recipe']} on {config['env_id']}, seed {config['seed']}")
    axes.set(title=title, xlabel="frames", ylabel="return")
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    if episodes or evaluations:
        legend = axes.legend(loc="best")
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1.0)
    path = folder / layout.CURVE
    # a new file, because the old one may have a second name in another folder
    path.unlink(missing_ok=True)
    figure.savefig(path, dpi=120)
    return path


def literal(text: str) -> str:
    """A text that Matplotlib draws as it is, not as mathematics."""
    return "".join(each if each.isprintable() else "?" for each in text).replace("$", r"\$")
