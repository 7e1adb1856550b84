"""Results over several environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlpipe.scripts.reports.groups import WITHOUT_EFFECT, Row
from rlpipe.scripts.reports.plain import json_number, text
from rlpipe.scripts.reports.run_results import FinishedRun
from rlpipe.scripts.reports.statistics import stratified_interquartile_mean

_OF_ENVIRONMENT = {"env_id", "eval_env_id"}


def across_environments(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The interquartile mean over environments, for settings that were run on several of them.

    Returns are normalised per environment: 0 is the lowest final return of these runs, 1 the highest. Only environments
    that all these settings share count.

    Returns:
        The environments and a line for each setting; `None` unless two settings share two environments.
    """
    settings: list[tuple[Any, dict[str, Row]]] = []
    for row in rows:
        what = _setting(row)
        same = (found for key, found in settings if key == what and _first(found).origin.is_like(row.runs[0].origin))
        known = next(same, None)
        if known is None:
            settings.append((what, {row.env_id: row}))
        else:
            known.setdefault(row.env_id, row)
    several = [found for _, found in settings if len(found) > 1]
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


def _setting(row: Row) -> Any:
    run = row.runs[0]
    config = {key: value for key, value in run.config.items() if key not in _OF_ENVIRONMENT | WITHOUT_EFFECT}
    return run.recipe, run.algorithm, config


def _first(found: dict[str, Row]) -> FinishedRun:
    return next(iter(found.values())).runs[0]


def _line(found: dict[str, Row], ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
    strata = [
        [(run.score - lowest) / (highest - lowest) for run in found[env_id].runs]
        for env_id, (lowest, highest) in ranges.items()
    ]
    iqm, low, high = map(json_number, stratified_interquartile_mean(strata))
    # the shortest label does not name the environment
    label = min((row.label for row in found.values()), key=len)
    return {"label": text(label), "runs": sum(map(len, strata)), "iqm": iqm, "low": low, "high": high}
