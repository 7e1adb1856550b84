"""The summary of a run, and how long a person waited for it."""

import json
import time

import pytest

from rlpipe.pipelines import summary
from rlpipe.pipelines.summary import Stopwatch
from rlpipe.scripts.display.progress_bar import describe
from rlpipe.scripts.main import run

SHORT = ["--total-frames", "64", "--num-envs", "2", "--rollout-steps", "16", "--minibatch-size", "32", "--quiet"]
SHORT += ["--eval-every", "32", "--eval-episodes", "2", "--final-eval-episodes", "2", "--logger", "none"]


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(summary.time, "perf_counter", lambda: now[0])
    return now


def test_what_is_neither_training_nor_evaluation_is_the_rest(clock):
    watch = Stopwatch(since=90.0)
    for seconds in (1.0, 2.0):
        with watch.evaluating():
            clock[0] += seconds
    clock[0] += 7.0
    watch.trained_before = 30.0
    assert watch.read(trained=34.5) == {"all": 20.0, "training": 4.5, "evaluation": 3.0, "rest": 12.5}
    assert Stopwatch().read(trained=0.0)["all"] == 0.0


def test_a_failed_evaluation_was_waited_for_too(clock):
    watch = Stopwatch()

    def interrupted():
        with watch.evaluating():
            clock[0] += 5.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert watch.read(0.0)["evaluation"] == 5.0


def ended(capsys, *arguments):
    began = time.perf_counter()
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found, time.perf_counter() - began


def test_a_run_tells_what_was_waited_for_it(capsys, tmp_path):
    folder = str(tmp_path / "run")
    found, seconds = ended(capsys, "train", "ppo", *SHORT, "--run-dir", folder)
    waited = found["waited"]
    assert waited["training"] == found["seconds"] > 0
    assert waited["evaluation"] > 0
    parts = waited["training"] + waited["evaluation"] + waited["rest"]
    assert parts == pytest.approx(waited["all"], abs=0.002)
    assert 0 < waited["all"] <= seconds
    (line,) = [each for each in describe(found).splitlines() if each.startswith("  time ")]
    assert " s in all: " in line
    # what another process waited for is not counted again
    more, seconds = ended(capsys, "resume", folder, "--total-frames", "128", "--quiet")
    waited = more["waited"]
    assert waited["training"] == pytest.approx(more["seconds"] - found["seconds"], abs=0.002)
    assert 0 < waited["all"] <= seconds
    assert " s more: " in describe(more)
    # of a finished run only the summary is read
    read, _ = ended(capsys, "resume", folder, "--quiet")
    assert read["waited"] is None
    assert "  time        none: the run was complete; --total-frames N trains it for longer\n" in describe(read)


@pytest.mark.parametrize(
    ("waited", "said"),
    [
        ((9.31, 2.0, 0.56, 6.75), "9.3 s in all: 2.0 training, 0.6 evaluation, 6.8 start and end"),
        ((9.31, 1.2, 1.36, 6.75), "9.3 s more: 1.2 training, 1.4 evaluation, 6.8 start and end"),
        ((0.52, 0.1, 0.14, 0.28), "0.5 s more: 0.1 training, 0.1 evaluation, 0.3 start and end"),
        ((3661.4, 3000, 600, 61.4), "3661 s more: 3000 training, 600 evaluation, 61 start and end"),
    ],
)
def test_the_summary_fits_80_columns(waited, said):
    found = {
        "recipe": "ppo",
        **dict.fromkeys(("env_id", "eval_env_id"), "CartPole-v1"),
        "seed": 0,
        "frames": 50_176,
        "updates": 1568,
        "episodes": 359,
        "seconds": 2.0,
        "frames_per_second": 25_000.0,
        "waited": dict(zip(("all", "training", "evaluation", "rest"), waited, strict=True)),
        "stopped_early": True,
        "stopped_by": "a mean training return of 475.0 over 100 episodes",
        "longest_streak": 12,
        "evaluation": {"episodes": 100, "mean": 337.1, "std": 69.9, "min": 243.0, "max": 500.0, "success_rate": 0.5},
        "best": {"frames": 45_056, "mean": 416.7, "checkpoint": ""},
        "run": "runs/ppo/0-20261121-031402",
    }
    text = describe(found)
    assert max(map(len, text.splitlines())) <= 80
    assert f"\n  time        {said}\n" in text
