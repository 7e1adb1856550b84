"""Each example is trained by `rlpipe train examples/NAME.py`, and every command takes its runs."""

import dataclasses
import json
from pathlib import Path

import pytest
from comparing import fingerprint
from example_files import NAMES, load, path_of, said, train

from rlpipe import run_recipe

# a few updates before the stop, and a few after it; whole batches
FRAMES = {
    "c51": (1_280, 1_152),
    "curriculum": (6_144, 5_120),
    "dueling_double_dqn": (1_536, 1_280),
    "noisy_dqn": (1_120, 1_056),
    "pixel_grid": (2_048, 1_024),
    "ppo_kl": (2_048, 1_024),
    "rnd": (2_048, 1_024),
    "shared_encoder": (2_048, 1_024),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class StoppedError(Exception):
    """What a listener raises half-way."""


def stop_at(frames):
    """A listener of progress that stops there: the run writes a checkpoint first."""

    def listener(now):
        if now.frames == frames and now.stage == "training":
            raise StoppedError

    return listener


def test_all_examples_are_here():
    assert sorted(FRAMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_resumes_to_the_bit(name):
    frames, stop = FRAMES[name]
    # a Config that inherits nothing has no such option
    has = any(field.name == "final_eval_episodes" for field in dataclasses.fields(load(name).Config))
    short = {"final_eval_episodes": 2} if has else {}
    options = [word for key, value in short.items() for word in (f"--{key.replace('_', '-')}", value)]
    whole = train(name, "whole", "--total-frames", frames, *options)
    assert whole["updates"] > 0
    with pytest.raises(StoppedError):
        run_recipe(path_of(name), folder="part", total_frames=frames, progress=stop_at(stop), **short)
    resumed = said("resume", "part", "--trust-module", path_of(name), "--quiet", "--json")
    assert resumed["evaluation"] == whole["evaluation"]
    assert fingerprint(Path("part")) == fingerprint(Path("whole"))


def test_the_curriculum_goes_on_where_it_was():
    train("curriculum", "run", "--total-frames", 6_144)
    rows = [json.loads(line)["distance"] for line in Path("run", "metrics.jsonl").read_text().splitlines()]
    # so the stop above lies between two changes of the environment
    assert 1 == rows[0] < rows[-2] < rows[-1]


def test_every_command_takes_a_run():
    path, frames = path_of("pixel_grid"), ["--total-frames", 1_024]
    summary = train("pixel_grid", "runs/one", *frames)
    assert (summary["recipe"], summary["env_id"], summary["frames"]) == ("pixel_grid", "pixel_grid:PixelGrid", 1_024)
    trust = ["--trust-module", path]
    assert said("evaluate", "runs/one", *trust, "--json")["evaluation"] == summary["evaluation"]
    said("export", "runs/one", *trust, "--out", "policy.safetensors")
    assert Path("policy.safetensors").stat().st_size > 0
    assert "`pixel_grid --total-frames 1024`" in said("table", "runs")
    resumed = said("resume", "runs/one", *trust, "--total-frames", 2_048, "--quiet", "--json")
    assert resumed["frames"] == 2_048


def test_a_run_is_drawn():
    train("rnd", "run", "--total-frames", 1_024)
    said("render", "run", "--trust-module", path_of("rnd"), "--out", "film.gif", "--max-steps", 3, "--quiet")
    assert Path("film.gif").stat().st_size > 0


def test_the_options_are_the_fields_of_the_config():
    text = said("train", path_of("dueling_double_dqn"), "--help")
    assert "--beta" in text
    assert "it rises to 1. (default: 0.4)" in " ".join(text.split())
    assert "--num-envs" in text
    # a Config that inherits nothing has its own fields only
    assert "--num-envs" not in said("train", path_of("c51"), "--help")
