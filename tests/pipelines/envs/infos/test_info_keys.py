"""Names of the numbers of an info, and numbers read from anything."""

import math
import posixpath
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.infos.keys import InfoKey, names_in, number_in, numbers_in, parse_keys


class Hostile:
    """Fails when it is read."""

    @property
    def detach(self):
        raise RuntimeError("no")

    def __array__(self, *_, **__):
        raise SystemError("no")


NUMBERS = [
    (True, 1.0),
    (3, 3.0),
    (2**70, 2.0**70),
    (0.5, 0.5),
    (np.float16(0.5), 0.5),
    (np.bool_(False), 0.0),
    (np.uint8(7), 7.0),
    (np.array(2.5), 2.5),
    (np.array([[4]]), 4.0),
    (torch.tensor(1.5), 1.5),
    (torch.tensor([1.5], requires_grad=True), 1.5),
]
OTHERS = [
    None,
    "1",
    b"1",
    [1.0],
    (1.0,),
    {"a": 1.0},
    2**2000,
    1j,
    np.zeros(2),
    np.zeros(0),
    np.array("x"),
    np.array(None),
    np.datetime64("2020-01-01"),
    torch.zeros(3),
    object(),
    Hostile(),
    lambda: 1,
]


def test_what_is_a_number():
    assert [number_in(value) for value, _ in NUMBERS] == [number for _, number in NUMBERS]
    assert all(math.isnan(number_in(value)) for value in OTHERS)
    assert math.isnan(number_in(np.nan))


@pytest.mark.parametrize(
    ("value", "mask", "expected"),
    [
        (np.array([1, 2, 3]), None, [1, 2, 3]),
        (np.array([[1], [2], [3]], np.float32), np.array([True, False, True]), [1, None, 3]),
        ([1.0, None, "2"], None, [1, None, None]),
        ([1.0, [1, 2], np.zeros(3)], None, [None] * 3),
        (np.array([True, None, "x"], object), None, [1, None, None]),
        (torch.tensor([1.0, 2.0, 3.0], requires_grad=True), [1, 0, 0], [1, None, None]),
        (5, None, [5, 5, 5]),
        (np.zeros((3, 2)), None, [None] * 3),
        (np.zeros(4), None, [None] * 3),
        (np.ones(3), "mask", [None] * 3),
        (Hostile(), None, [None] * 3),
        (None, None, [None] * 3),
    ],
)
def test_numbers_of_a_vector_environment(value, mask, expected):
    found = numbers_in(value, mask, 3)
    assert [None if math.isnan(each) else each for each in found] == expected


def test_keys_of_nested_dicts():
    info = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}, "_b": "mask"}, "x": 4, "_x": 5}
    keys = parse_keys(["a.b", "a.c.d", "x", "x.y", "a.c.z.q"])
    assert [key.find(info) for key in keys] == [(1, None), (3, None), (4, 5), (None, None), (None, None)]
    assert InfoKey("a.b", False, "").find({"a": info["a"]}) == (2, "mask")
    assert keys[0].find("no dict") == (None, None)


def test_metrics_have_names_that_loggers_take():
    keys = parse_keys(["speed", "speed:last", "reward.forward", "a b/c", "../x", "größe", "a:b"])
    metrics = [key.metric for key in keys]
    assert metrics == [
        "info/speed",
        "info/speed_last",
        "info/reward.forward",
        "info/a_b_c",
        "info/.._x",
        "info/gr__e",
        "info/a_b",
    ]
    assert [key.at_end for key in keys] == [False, True, False, False, False, False, False]
    for metric in metrics:
        assert re.fullmatch(r"[\w./-]+", metric, re.ASCII)
        # MLflow refuses a name that is another path
        assert posixpath.normpath(metric) == metric


@pytest.mark.parametrize(
    ("spellings", "words"),
    [
        (["a", ""], r"log_info has ''; expected a key of info, such as x_velocity \(mean over steps\) or"),
        ([".."], r"log_info has '\.\.'; expected a key"),
        ([":last"], "log_info has ':last'; expected a key"),
        (["x" * 101], "log_info has 'x{100}'; expected a key"),
        (["a", "b", "a"], "log_info has 'a', but info/a is another key's metric already"),
        (["a_last", "a:last"], "log_info has 'a:last', but info/a_last is another"),
        ([f"k{index}" for index in range(101)], "log_info has 101 keys; allowed are at most 100"),
    ],
)
def test_keys_that_are_refused(spellings, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        parse_keys(spellings)


def test_names_of_numbers():
    assert names_in({"a": 1, "b": "x", 7: 1, "_c": 1, "d": np.array([2.0]), "e": None, "f": np.zeros(2)}) == ["a", "d"]
    assert names_in({"f": np.zeros(2), "a": np.zeros(3), "_f": np.ones(2)}, 2) == ["f"]
    assert len(names_in({f"k{index}": 1.0 for index in range(10_000)})) == 20
    assert names_in(None) == names_in(Hostile()) == []


def test_worker_processes_import_it_without_pytorch():
    code = "import sys, rlpipe.pipelines.envs.infos.log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
