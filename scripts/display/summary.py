"""The summary of a run, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpipe.formatting import duration, figure, rate, statistics
from rlpipe.pipelines.runs.layout import CURVE


def describe(summary: Mapping[str, Any]) -> str:
    """The summary of a run for people."""
    evaluation, found = summary["evaluation"], statistics(summary["evaluation"])
    where = "" if summary["eval_env_id"] == summary["env_id"] else f" of {summary['eval_env_id']}"
    lines = [
        f"{summary['recipe']} on {summary['env_id']}, seed {summary['seed']}",
        f"  return   {found['mean']} +- {found['std']} over {evaluation['episodes']} greedy episodes"
        f"{where} ({found['min']} to {found['max']})",
        *([f"  success  {evaluation['success_rate']:.1%} of them"] if "success_rate" in evaluation else []),
        f"  frames   {summary['frames']:,} in {duration(summary['seconds'])} s of training"
        f" ({rate(summary['frames_per_second'])} a second), {summary['episodes']:,} episodes,"
        f" {summary['updates']:,} updates",
    ]
    if (best := summary["best"]) is not None:
        lines.append(f"  best     {figure(best['mean'])} at frame {best['frames']:,}: {summary['run']}@best")
    if summary["stopped_early"]:
        lines.append(f"  stopped  by {summary['stopped_by']}")
    if summary["longest_streak"] is not None:
        lines.append(f"  streak   {summary['longest_streak']} successes in a row at most")
    lines += [f"  run      {summary['run']}", f"  curve    {Path(summary['run']) / CURVE}"]
    return "\n".join(lines)
