"""The search for settings: valid draws, rounds, and what it prints."""

import dataclasses
import random

import pytest

from rlpipe.errors import ConfigError
from rlpipe.pipelines.recipes import find_recipe
from rlpipe.scripts.benchmarks import search
from rlpipe.scripts.benchmarks.solve import Checked, Outcome


@pytest.mark.parametrize("algorithm", search.SPACES)
def test_every_setting_is_a_field_and_every_draw_a_valid_config(algorithm):
    config = find_recipe(algorithm).config()
    assert set(search.SPACES[algorithm]) <= {field.name for field in dataclasses.fields(config)}
    source = random.Random(0)
    drawn = [search.draw(algorithm, source, 50_000) for _ in range(20)]
    assert len({str(settings) for settings in drawn}) > 10
    for settings in drawn:
        dataclasses.replace(config, **settings)


def test_a_race_trains_and_evaluates_with_the_settings(monkeypatch):
    monkeypatch.setattr(search, "greedy_mean", lambda policy: 100.0)
    settings = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 64, "hidden": (8,)}
    outcome = search.race("ppo", settings, 3, 2_560)
    assert (outcome.seed, outcome.frames, len(outcome.checks), outcome.touched) == (3, 2_560, 1, None)
    assert outcome.seconds > 0


def test_the_best_get_more_seeds_and_the_recipe_stays_in_the_race(monkeypatch, capsys):
    raced = []

    def race(algorithm, settings, seed, total_frames):
        raced.append((settings.get("lr"), seed))
        # the recipe never solves it, the others the sooner the lower their number
        seconds = settings.get("lr", 9.0)
        return Outcome(seed, 1_000, seconds, (Checked(1_000, seconds, 500.0 if settings else 100.0),))

    rates = iter(range(1, 9))
    monkeypatch.setattr(search, "race", race)
    monkeypatch.setattr(search, "draw", lambda *arguments: {"lr": next(rates)})
    monkeypatch.setattr(search, "final_return", lambda algorithm, settings, seed: 100.0 + seed)
    trials = search.search("ppo", search.Options(trials=8, rounds=3))
    assert [trial.settings.get("lr") for trial in trials[:3]] == [1, None, 2]
    assert [len(trial.runs) for trial in trials] == [6, 6, 4, *[2] * 6]
    assert {seed for rate, seed in raced if rate == 1} == set(range(6))
    assert trials[0].seconds == 1
    assert trials[1].seconds == 36.0
    said = "1.00 s 1000 frames solved 6 of 6 at the end 100 101 102 103 104 105 lr=1"
    assert " ".join(str(trials[0]).split()) == said
    assert "round 3:  36.00 s" in capsys.readouterr().err


def test_bad_input():
    with pytest.raises(ConfigError, match="no space is written down for 'ppp'; there are ppo, a2c, dqn"):
        search.main(["ppp"])
    with pytest.raises(ConfigError, match="no option is called --trails; did you mean --trials"):
        search.main(["ppo", "--trails", "3"])
