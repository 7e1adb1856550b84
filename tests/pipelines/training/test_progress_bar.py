"""The progress bar: what it says, and that it fits the terminal."""

import sys

import pytest

from rlpipe.pipelines.progress import Evaluation, Progress
from rlpipe.pipelines.training.progress_bar import ProgressBar


@pytest.mark.parametrize(("columns", "fits"), [(80, False), (120, True)])
def test_both_returns_fit_and_the_rest_is_for_wide_terminals(capsys, monkeypatch, columns, fits):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    bar = ProgressBar("ppo", 50_000)
    bar(Progress("training", 25_000, scalars={"approx_kl": 0.0123}, returns=(217.0, 218.0), lengths=(1, 1)))
    bar(Progress("evaluated", 50_000, evaluation=Evaluation((500.0,), (500,))))
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1].rstrip("\n")
    assert "return: training 217.5, evaluation 500.0" in last
    assert ("KL 0.0123" in last) == fits


def test_without_stderr_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    bar = ProgressBar("ppo", 50_000)
    bar(Progress("training", 25_000, returns=(217.0,), lengths=(1,)))
    bar.close()
