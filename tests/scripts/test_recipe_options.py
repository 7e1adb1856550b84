"""Options of the engine and bad input of the recipes, as their user meets them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from rlpipe.pipelines.algorithms.recipes import RECIPES, find_recipe
from rlpipe.scripts.main import run

SHORT = ["--quiet", "--eval-episodes", "2", "--final-eval-episodes", "2", "--eval-every", "400"]
A2C = ["train", "a2c", "--total-frames", "512", "--rollout-steps", "16", *SHORT]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_for_a_few_hundred_frames(name, capsys):
    if name == "ppo/inverted-double-pendulum":
        pytest.importorskip("mujoco")
    frames = 4 * find_recipe(name).config().rollout_steps * find_recipe(name).config().num_envs
    frames = max(400, min(frames, 2_000))
    if name.endswith("/atari"):
        pytest.importorskip("ale_py")
        frames = 256
    options = ["--total-frames", str(frames), "--run-dir", "run", "--json", *SHORT]
    config = find_recipe(name).config()
    if hasattr(config, "warmup_frames") and getattr(config, "replay", True):
        options += ["--warmup-frames", "64"]
    if name.endswith("/atari"):
        small = (
            ["--buffer-size", "1000"] if name == "dqn/atari" else ["--rollout-steps", "16", "--minibatch-size", "64"]
        )
        options += ["--max-episode-steps", "20", *small]
    assert run(["train", name, *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] > 0
    assert summary["updates"] > 0
    assert run(["evaluate", "run", "--episodes", "2", "--json"]) == 0
    assert len(json.loads(Path("run/evaluations.jsonl").read_text().splitlines()[-1])["returns"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["q-learning/maze", "--env-id", "CartPole-v1"], "the transform BinObservation makes it so, with --bins"),
        (["q-learning/maze", "--bins", "6"], "bins is 6, which needs bin_low and bin_high"),
        (["q-learning/cartpole-bins", "--env-id", "Acrobot-v1"], "bins are given for 4 features, and the observation"),
        (["q-learning/cartpole-bins", "--bin-low", "9", "9", "9", "9"], "each upper limit must be above its lower one"),
        (["sarsa/maze", "--normalize-observation"], "normalize_observation is True, but a table has no use for it"),
        (["sarsa/maze", "--device", "cuda"], "a table is on the CPU"),
        (["sarsa/maze", "--bin-low", "1"], "bin_low and bin_high need bins"),
        (
            ["q-learning/cartpole-bins", "--bins", "1000"],
            "a table of 1,000,000,000,000 states and 2 actions is too large",
        ),
        (["q-learning/cartpole-bins", "--bins", "1000000"], "states; take fewer"),
        (["q-learning/cartpole-bins", "--env-id", "FrozenLake-v1"], "the observation is no Box; .*--bins none"),
        (
            ["ppo", "--eval-env-id", "Acrobot-v1"],
            "eval_env_id is 'Acrobot-v1', whose spaces are not those",
        ),
        (["dqn/instances", "--env-id", "rlpipe/CartPoleInstancesBlind-v0"], "whose spaces are not those of"),
        (["dqn", "--env-id", "Acrobot-v1", "--reward-shaping", "balance"], "'balance', which is made for CartPole"),
        (
            ["ppo", "--normalize-frames", "2"],
            "--normalize-frames; it is --normalize-observation here, by running",
        ),
        (["dqn", "--normalize-reward"], "normalize_reward is True with replay, whose transitions would stay"),
        (["ppo", "--clip-reward", "1"], "clip_reward is 1.0, which needs normalize_reward; --reward-shaping clip"),
        (["ppo", "--clip-observation", "1"], "clip_observation is 1.0, which needs normalize_observation"),
        (["ppo", "--normalize-observation", "--env-id", "FrozenLake-v1"], "needs an observation of floats; this env"),
        (["ppo", "--minibatch-size", "1"], "needs a minibatch_size of 2 or more"),
        (["a2c", "--num-envs", "1", "--rollout-steps", "1"], "needs 2 or more frames per batch"),
        (["ppo", "--stop-at-change", "1"], "no option is called --stop-at-change"),
        (
            ["ppo", "--gif", "--env-id", "rlpipe/CartPoleInstances-v0", "--max-episode-steps", "0"],
            "max_episode_steps is 0",
        ),
        (["reinforce", "--rollout-steps", "3"], "fewer than an episode's 500.*set rollout_steps to 32 or more"),
        (["a2c", "--env-id", "CartPole-v9"], "env-id is 'CartPole-v9', which Gymnasium does not know"),
        (["a2c", "--start-from", "nowhere"], "nowhere is no run"),
    ],
)
def test_bad_input_is_one_line_that_says_what_would_be_right(arguments, message, capsys):
    assert run(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("rlpipe: error: ")
    __import__("re").search(message, line) or pytest.fail(line)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--total-episodes", "3"], "3 episodes"),
        (["--stop-at-mean", "9", "--stop-window", "4"], "over 4 episodes"),
        (["--stop-after-successes", "2", "--success-return", "8"], "2 successes in a row"),
        (["--stop-at-return", "1", "--eval-every", "128"], "an evaluation return of"),
    ],
)
def test_a_run_says_what_stopped_it(options, reason, capsys):
    assert run([*A2C, *options, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["stopped_early"]
    assert reason in summary["stopped_by"]
    assert summary["frames"] < 512
    run([*A2C, *options])
    assert f"stopped     by {summary['stopped_by']}" in capsys.readouterr().out


def test_successes_in_a_row_are_reported_also_where_they_did_not_suffice(capsys):
    run([*A2C, "--stop-after-successes", "99", "--success-return", "1", "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["stopped_by"], summary["longest_streak"]) == ("", summary["episodes"])
    run([*A2C, "--stop-after-successes", "99", "--success-return", "1"])
    assert f"streak      {summary['episodes']} successes in a row at most" in capsys.readouterr().out


def test_a_table_that_diverges_ends_the_run(capsys):
    assert run(["train", "q-learning/maze", "--step-size", "1e6", "--total-frames", "3000", *SHORT]) == 1
    assert "td_error is inf" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_refused_before_training(capsys):
    assert run([*A2C, "--gif", "--env-id", "tests/Counter-v0", "--run-dir", "run"]) == 2
    assert "draws no images" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_table_stops_when_its_values_stand_still(capsys):
    run(["train", "q-learning/maze", "--stop-at-change", "0.05", "--json", *SHORT])
    summary = json.loads(capsys.readouterr().out)
    assert summary["stopped_by"].startswith("a change of ")
    assert summary["episodes"] < 100


def test_evaluations_during_training_may_sample_and_the_last_one_is_greedy(monkeypatch):
    from rlpipe.pipelines import session

    asked = []
    true = session.evaluate

    def watched(*arguments, **options):
        asked.append(options["stochastic"])
        return true(*arguments, **options)

    monkeypatch.setattr(session, "evaluate", watched)
    run([*A2C, "--eval-stochastic"])
    run(A2C)
    assert asked == [True, False, False, False]


def test_evaluation_on_another_environment(capsys):
    options = ["--eval-env-id", "CartPole-v0", "--max-episode-steps", "5", "--run-dir", "run"]
    run([*A2C, *options])
    assert "over 2 greedy episodes of CartPole-v0" in capsys.readouterr().out
    run(["evaluate", "run", "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["env_id"] == "CartPole-v0"


def test_a_run_starts_from_what_another_has_learned(capsys):
    run([*A2C, "--run-dir", "first", "--json"])
    # without learning, what was started from is what is left
    still = ["--lr", "1e-30", "--optimizer", "adam", "--run-dir", "second", "--start-from", "first", "--seed", "5"]
    assert run([*A2C, *still]) == 0
    capsys.readouterr()
    results = []
    for folder in ("first", "second"):
        run(["evaluate", folder, "--episodes", "5", "--seed", "7", "--json"])
        results.append(json.loads(capsys.readouterr().out)["evaluation"])
    assert results[0] == results[1]
    assert run(["train", "ppo", "--start-from", "first"]) == 2
    assert "is a run of a2c, and the recipe ppo trains ppo" in capsys.readouterr().err
    assert run([*A2C, "--hidden", "8", "--start-from", "first"]) == 2
    assert "hidden is [8], and start-from first was trained with [64, 64]; they must be" in capsys.readouterr().err


def test_exploration_begins_anew_where_a_run_starts_from_another(capsys):
    run(["train", "q-learning/maze", "--run-dir", "first", *SHORT])
    run(["train", "q-learning/maze", "--start-from", "first", "--run-dir", "second", *SHORT])
    first = json.loads(Path("second/metrics.jsonl").read_text().splitlines()[0])
    assert first["epsilon"] == 0.5
    # the way is known: no long search comes first
    assert json.loads(Path("second/evaluations.jsonl").read_text().splitlines()[0])["lengths"] == [6, 6]


def test_a_gif_of_an_episode():
    run(["train", "sarsa/maze", "--gif", "--run-dir", "run", *SHORT])
    with Image.open("run/agent.gif") as image:
        assert image.n_frames == 7
        assert image.size == (480, 506)


def test_the_curve_has_the_window_that_was_asked_for(monkeypatch):
    from rlpipe.pipelines.runs import curve

    windows = []
    true = curve.moving_mean
    monkeypatch.setattr(curve, "moving_mean", lambda values, window: windows.append(window) or true(values, window))
    run([*A2C, "--curve-window", "7"])
    assert windows == [7]


def test_a_forbidden_action_names_the_state_and_the_allowed_ones(monkeypatch, capsys):
    from rlpipe.modules import QActor

    true = QActor.forward

    def upwards(self, tensordict):
        return true(self, tensordict).set("action", torch.zeros_like(tensordict["action"]))

    monkeypatch.setattr(QActor, "forward", upwards)
    assert run(["train", "q-learning/maze", "--epsilon-start", "0", *SHORT]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "action 0 (up) is forbidden in state 0; allowed: right (1), down (2)" in line
