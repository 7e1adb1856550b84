"""`curve.png`: the evaluation returns of a run against frames, and behind them its training returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each position, of fewer at the start; `[n]` to `[n]`."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return (sums[stop] - sums[start]) / (stop - start)


def draw_curve(folder: Path, window: int) -> Path:
    """Draw a run folder's `curve.png` from its journals, with the mean of the last `window` training returns."""
    figure, path = make_figure(folder, window), folder / layout.CURVE
    # a new file, because the old one may have a second name in another folder
    path.unlink(missing_ok=True)
    figure.savefig(path, dpi=120)
    return path


def make_figure(folder: Path, window: int) -> Figure:
    """The figure that `draw_curve` saves."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    described = json.loads((folder / layout.CONFIG).read_text())
    episodes = [(row["frames"], value) for row in read_lines(folder / layout.METRICS) for value in row["returns"]]
    evaluations = read_lines(folder / layout.EVALUATIONS)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    shown: dict[str, Any] = {}
    if evaluations:
        shown["evaluation return: mean, and 10 to 90 % of its episodes"] = _draw_evaluations(axes, evaluations)
    if episodes:
        named = f"training return, with exploration: each episode, and the mean of the last {window}"
        shown[named] = _draw_training(axes, np.array(episodes, dtype=float), window)
    config = described["config"]
    title = literal(f"{described['recipe']} on {config['env_id']}, seed {config['seed']}")
    axes.set(title=title, xlabel="frames", ylabel="return")
    axes.set_xlim(0, 1.02 * max([1, *(row["frames"] for row in evaluations), *(frames for frames, _ in episodes)]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    # below the axes, because it may hide a curve inside
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", fontsize="small", frameon=False)
    return figure


def _draw_evaluations(axes: Any, evaluations: Sequence[Mapping[str, Any]]) -> Any:
    points = np.array([(row["frames"], np.mean(row["returns"])) for row in evaluations])
    spread = np.array([np.percentile(row["returns"], [10, 90]) for row in evaluations]).T
    # a mean outside of the percentiles has no bar on that side
    errors = np.maximum(0.0, (points[:, 1] - spread[0], spread[1] - points[:, 1]))
    style: dict[str, Any] = {"color": "tab:blue", "linewidth": 2, "elinewidth": 1, "capsize": 3, "zorder": 4}
    return axes.errorbar(*points.T, yerr=errors, fmt="o-", **style)


def _draw_training(axes: Any, episodes: np.ndarray, window: int) -> tuple[Any, ...]:
    frames, returns = episodes.T
    style: dict[str, Any] = {"color": "tab:gray", "markersize": 4, "markeredgewidth": 0}
    dots = axes.plot(frames, returns, ".", alpha=0.35, **style)
    return *dots, *axes.plot(frames, moving_mean(returns, window), color="tab:gray", linewidth=1.2, zorder=3)


def literal(text: str) -> str:
    """A text that Matplotlib draws as it is, not as mathematics."""
    return "".join(each if each.isprintable() else "?" for each in text).replace("$", r"\$")
