"""How benchmarks measure and report: by calls that note their order, and by samples written by hand."""

import gc
import importlib.metadata
import json

import pytest
import torch

from rlpipe.errors import ConfigError
from rlpipe.scripts.benchmarks.measure import Row, Spread, interleave, spread
from rlpipe.scripts.benchmarks.report import default_path, describe, draw, prepare, write

ROWS = [
    Row(
        "few",
        "us a step",
        {"rlpipe": [2.0, 4.0, 1.0], "torchrl": [6.0, 4.0, 5.0], "sb3": [0.02, 0.04, 0.01]},
        {"frames_per_second": {"rlpipe": 1_234_567.0, "torchrl": 10.0}, "note": "few: of three"},
    ),
    Row("many", "us a step", {"rlpipe": [150.0], "torchrl": [12_345.6]}),
    Row("memory", "MB", {"rlpipe": [0.0]}),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_arms_take_turns_on_one_thread_and_warm_up_first():
    order = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seconds = interleave(
            {name: lambda name=name: order.append((name, torch.get_num_threads())) for name in "ABC"},
            repeats=3,
            warmup=2,
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert order == [(name, 1) for name in "ABC" * 5]
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3, "C": 3}
    assert all(value > 0 for values in seconds.values() for value in values)


def test_threads_and_garbage_collection_are_as_before_when_an_arm_fails():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    calls = []

    def fail_when_timed():
        calls.append(gc.get_freeze_count())
        if len(calls) == 2:
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError):
            interleave({"A": fail_when_timed}, repeats=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    # what was there before the first repetition is out of the collector's way during it, and back afterwards
    assert calls[0] == 0 < calls[1]
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_each_repetition_begins_without_garbage_of_another():
    class Cycle:
        left = 0

        def __init__(self):
            self.itself = self
            Cycle.left += 1

        def __del__(self):
            Cycle.left -= 1

    seen = []

    def look_and_litter():
        seen.append(Cycle.left)
        Cycle()

    interleave({"A": look_and_litter, "B": look_and_litter}, repeats=2, warmup=0)
    assert seen == [0, 0, 0, 0]


def test_ratios_are_paired_by_repetition():
    row = ROWS[0]
    assert row.medians == {"rlpipe": 2.0, "torchrl": 5.0, "sb3": 0.02}
    # 6/2, 4/4, 5/1 are 3, 1, 5: their median is 3, and not the 2.5 of the medians
    assert row.ratio("torchrl") == Spread(3.0, 2.0, 4.0)
    assert row.ratio("sb3").median == pytest.approx(0.01)
    assert row.ratio("rlpipe") is None
    assert Row("x", "s", {"torchrl": [1.0]}).ratio("torchrl") is None
    assert Row("x", "s", {"rlpipe": [0.0], "torchrl": [1.0]}).ratio("torchrl") is None
    assert Row("x", "s", {"rlpipe": [2.0, 1.0], "torchrl": [4.0]}).ratio("torchrl") == Spread(2.0, 2.0, 2.0)
    assert Row("x", "s", {"rlpipe": [], "torchrl": [4.0]}).medians == {"torchrl": 4.0}


def test_quartiles_by_hand():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_row_in_one_line():
    assert str(ROWS[0]) == "few: rlpipe 2, torchrl 5, sb3 0.02 us a step"
    assert str(ROWS[2]) == "memory: rlpipe 0 MB"


def test_the_table_as_printed():
    assert describe(ROWS).splitlines() == [
        "| case | unit | rlpipe | torchrl | sb3 |",
        "|---|---|---|---|---|",
        "| few | us a step | 2.00 | 5.00 (3.00x, 2.00 to 4.00) | 0.020 (0.010x, 0.010 to 0.010) |",
        "| many | us a step | 150 | 12 346 (82.3x, 82.3 to 82.3) |  |",
        "| memory | MB | 0.0 |  |  |",
        "",
        "| frames a second | rlpipe | torchrl | sb3 |",
        "|---|---|---|---|",
        "| few | 1 234 567 | 10.0 |  |",
        "",
        "- medians; in brackets times rlpipe's, paired by repetition: median and quartiles",
        "- few: of three",
    ]
    assert describe(ROWS[2:]).count("\n") == 2


def test_json_holds_every_sample_and_the_machine(tmp_path):
    path = tmp_path / "new" / "few.json"
    prepare(path)
    write(path, ROWS, {"benchmark": "collect", "command": "rlpipe benchmark collect"})
    content = json.loads(path.read_text())
    assert content["command"] == "rlpipe benchmark collect"
    assert content["rows"][0] == {
        "case": "few",
        "unit": "us a step",
        "samples": ROWS[0].samples,
        "medians": {"rlpipe": 2.0, "torchrl": 5.0, "sb3": 0.02},
        "ratios": {
            "torchrl": {"median": 3.0, "low": 2.0, "high": 4.0},
            "sb3": {"median": 0.01, "low": 0.01, "high": 0.01},
        },
        "extra": ROWS[0].extra,
    }
    assert content["packages"]["torch"] == importlib.metadata.version("torch")
    assert content["torch_threads"] == 1
    assert {"cpu", "cores", "date", "python", "system"} <= set(content)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "few.json"
    for taken in (path, path.with_suffix(".png")):
        taken.write_text("mine")
        with pytest.raises(ConfigError, match=f"{taken.name} exists already; nothing was overwritten"):
            prepare(path)
        taken.unlink()
    prepare(path)
    path.write_text("mine")
    with pytest.raises(ConfigError, match="nothing was overwritten"):
        write(path, ROWS, {})
    assert path.read_text() == "mine"


def test_what_cannot_be_written_is_known_before(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.json"):
        prepare(tmp_path / "few.txt")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        prepare(tmp_path / "file" / "few.json")


def test_default_paths_differ():
    first = default_path("collect")
    assert first.parent.parts == ("runs", "benchmark")
    prepare(first)
    first.touch()
    assert default_path("collect") != first


def test_a_plot_of_zeros_and_of_many_arms():
    many = Row("crowd", "s", {f"arm {index}": [1.0 + index] for index in range(12)})
    assert draw([many, ROWS[2]], "x").startswith(b"\x89PNG")
