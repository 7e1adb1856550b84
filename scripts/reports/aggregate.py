"""Results over several environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlpipe.pipelines.runs.origin import Origin
from rlpipe.scripts.reports.groups import WITHOUT_EFFECT, Row, grouped
from rlpipe.scripts.reports.plain import json_number, text
from rlpipe.scripts.reports.statistics import interquartile_mean

_OF_ENVIRONMENT = {"env_id", "eval_env_id"}


def across_environments(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The interquartile mean over environments, for settings that were run on several of them.

    Returns are normalised per environment: 0 is the lowest final return of these runs, 1 the highest. Only environments
    that all these settings share count.

    Returns:
        The environments and a line for each setting; `None` unless two settings share two environments.
    """
    several = []
    for group in grouped(rows, _settings):
        found: dict[str, Row] = {}
        for row in group:
            found.setdefault(row.env_id, row)
        if len(found) > 1:
            several.append(found)
    if len(several) < 2:
        return None
    shared = [env_id for env_id in several[0] if all(env_id in found for found in several)]
    ranges = {}
    for env_id in shared:
        scores = [run.score for found in several for run in found[env_id].runs]
        if min(scores) < max(scores):
            ranges[env_id] = (min(scores), max(scores))
    if len(ranges) < 2:
        return None
    return {"environments": list(map(text, ranges)), "lines": [_line(found, ranges) for found in several]}


def _settings(row: Row) -> tuple[Any, Origin]:
    run = row.runs[0]
    config = {key: value for key, value in run.config.items() if key not in _OF_ENVIRONMENT | WITHOUT_EFFECT}
    return (run.recipe, run.algorithm, config), run.origin


def _line(found: dict[str, Row], ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
    strata = [
        [(run.score - lowest) / (highest - lowest) for run in found[env_id].runs]
        for env_id, (lowest, highest) in ranges.items()
    ]
    iqm, low, high = map(json_number, interquartile_mean(*strata))
    # the shortest label does not name the environment
    label = min((row.label for row in found.values()), key=len)
    return {"label": text(label), "runs": sum(map(len, strata)), "iqm": iqm, "low": low, "high": high}
