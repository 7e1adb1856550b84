"""`rlpipe benchmark start` measures whole commands."""

import sys

import pytest

from rlpipe.errors import RlpipeError
from rlpipe.scripts.benchmarks import start
from rlpipe.scripts.benchmarks.start import CASES, Case


@pytest.mark.slow
def test_each_command_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "RUNS", 2)
    monkeypatch.setattr(start, "FRAMES", 1_000)
    # the others take longer
    rows = list(start.run(against=[], quick=True, cases=CASES[:4]))
    first = "train ppo, until the first line on the screen"
    assert [row.case for row in rows] == [*(case.name for case in CASES[:4]), first]
    assert all(row.samples["rlpipe"][0] > 0 for row in rows)


def test_another_exit_code_is_an_error(tmp_path):
    with pytest.raises(RlpipeError, match=r"import nothing_like_this failed: ModuleNotFoundError: No module named"):
        start._cpu_seconds(Case("", ("-c", "import nothing_like_this")).command(), tmp_path)


def test_the_time_is_the_processors_and_until_the_first_byte_the_clocks(tmp_path):
    slept = start._cpu_seconds([sys.executable, "-c", "import time; time.sleep(0.5)"], tmp_path)
    code = "import sys, time; time.sleep(0.5); sys.stderr.write('x'); sys.stderr.flush(); time.sleep(60)"
    waited = start._first_output([sys.executable, "-c", code], tmp_path)
    assert waited >= 0.5
    assert slept < waited
