"""Curves of several seeds put on one axis."""

from pathlib import Path

import numpy as np

from rlpipe.pipelines.training.metrics import Line
from rlpipe.scripts.reports.groups import over_seeds
from rlpipe.scripts.reports.run_results import FinishedRun


def finished(*curve):
    return FinishedRun(Path(), "ppo", "ppo", {}, 0, 0, 0.0, 0.0, np.array(curve, dtype=float))


def test_curves_on_one_axis():
    runs = [finished((10, 1, 0), (30, 5, 8)), finished((20, 2, 6), (40, 4, 2))]
    frames, returns = over_seeds(runs, 0)
    assert frames.tolist() == [20, 30, 40]
    assert returns.tolist() == [[4, 8, 8], [6, 4, 2]]
    seconds, returns = over_seeds(runs, 1)
    assert seconds.tolist() == [2, 4, 5]
    assert returns.tolist() == [[2, 6, 8], [6, 2, 2]]


def test_a_line_of_an_older_version_has_no_successes():
    line = Line()
    line.load_state_dict({"scalars": [], "returns": [1.0], "lengths": [2]})
    assert (line.returns, line.successes) == ([1.0], [])
