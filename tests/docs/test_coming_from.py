"""`docs/coming-from.md`: its names are those of the libraries, and its answers those that a command gives."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import tyro
from test_code_blocks import EnoughError

import rlpipe
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.pipelines.config.foreign_names import ABSENT, CHANGED, RENAMED
from rlpipe.scripts.main import run

TEXT = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text()
FIELDS = {name for recipe in RECIPES.values() for name in vars(recipe.config())}
NAME = re.compile(r"`([a-z_]+)[`=]")
MODULES = ("collectors", "envs", "objectives", "objectives.value", "modules", "data", "trainers", "trainers.algorithms")
MORE = ("data.replay_buffers",)
OF_THE_COMMAND = {"run_dir", "logger", "quiet", "no_normalize_advantage"}
# of sb3-contrib, which is not a dependency
CONTRIB = {"lstm_hidden_size"}


def table(heading):
    """Return the cells of each row of the table under a heading."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


OPTIONS = table("Options")


def known(theirs):
    """Return the option here, or the options, of another library's option; and what is said of it."""
    dashed = theirs.replace("_", "-")
    for ours, names in RENAMED.items():
        if dashed in names.split():
            return {each.split()[0].replace("-", "_") for each in ours.split("|")}, ""
    for names, (ours, remark) in CHANGED.items():
        if dashed in names.split():
            return {each.split()[0].replace("-", "_") for each in ours.split("|")}, remark
    for names, why in ABSENT.items():
        if dashed in names.split():
            return set(), why
    return {theirs} & FIELDS, ""


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row[2][:24])
def test_an_option_is_what_the_command_line_answers(row):
    here = set(NAME.findall(row[2])) | {each.replace("-", "_") for each in re.findall(r"--([a-z-]+)", row[2])}
    for theirs in NAME.findall(" ".join(row[:2])):
        ours, why = known(theirs)
        assert ours & here or any(each in why for each in re.findall(r"`(WANDB_\w+)`", row[2])), theirs
    first = re.match(r"(?:on: )?`-*([a-z-]+)", row[2].replace("_", "-"))
    assert first is None or first[1].replace("-", "_") in FIELDS | OF_THE_COMMAND, row


def test_names_of_stable_baselines3_are_parameters_there():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
    from stable_baselines3.common import callbacks, env_util, policies, vec_env

    places = [A2C, DQN, PPO, SAC, TD3, PPO.learn, env_util.make_vec_env, policies.ActorCriticPolicy]
    places += [callbacks.EvalCallback, callbacks.CheckpointCallback, vec_env.VecNormalize, vec_env.VecFrameStack]
    there = {name for place in places for name in inspect.signature(place).parameters} | CONTRIB
    assert {name for row in OPTIONS for name in NAME.findall(row[0])} <= there
    for name in re.findall(r"`(?:model\.)?(\w+)\(?", " ".join(row[0] for row in table("What one does"))):
        places = (callbacks, env_util, vec_env, PPO, importlib.import_module("stable_baselines3.common.monitor"))
        contrib = {
            "MaskablePPO",
            "RecurrentPPO",
            "QRDQN",
            "train",
            "PPO",
            "evaluate_policy",
            "_on_step",
            "_on_rollout_end",
        }
        assert name in contrib or any(hasattr(place, name) for place in places), name


def test_names_of_torchrl_exist_there_and_ours_here():
    places = [importlib.import_module(f"torchrl.{name}") for name in (*MODULES, *MORE)]
    losses = importlib.import_module("rlpipe.losses")
    for theirs, ours, _ in table("From TorchRL"):
        for name in re.findall(r"`([A-Z]\w+)`", theirs):
            assert any(hasattr(place, name) for place in places), name
            assert "the same names" not in ours or hasattr(losses, name), name
        for name in re.findall(r"`(?:rlpipe\.)?(\w+)[`(]", ours):
            assert name in {*rlpipe.__all__, "losses"} | FIELDS, name


# in other units there, or nothing that changes a run
OTHER = ("target_update_interval", "exploration_fraction", "stats_window_size")


@pytest.mark.parametrize("recipe", ["ppo", "dqn", "sac", "td3"])
def test_the_commands_with_defaults_of_stable_baselines3_have_them(recipe, monkeypatch):
    stable = pytest.importorskip("stable_baselines3")
    command = re.search(rf"^rlpipe train ({recipe} .*--num-envs 1 .*)$", TEXT, re.MULTILINE)[1]
    parsed, cli = [], tyro.cli

    def parse(*arguments, **options):
        parsed.append(cli(*arguments, **options))
        raise EnoughError

    monkeypatch.setattr(tyro, "cli", parse)
    with pytest.raises(EnoughError):
        run(["train", *command.split()])
    config = parsed[0].config
    compared = set()
    for name, parameter in inspect.signature(getattr(stable, recipe.upper())).parameters.items():
        ours = next((each for each in (name, *known(name)[0]) if hasattr(config, each)), None)
        number = type(parameter.default) in (int, float)
        if ours is not None and number and name not in OTHER:
            compared.add(name)
            assert getattr(config, ours) == parameter.default, name
    assert len(compared) >= 8, compared
    if recipe == "dqn":
        assert config.target_every * config.rollout_steps == 10_000
        assert config.epsilon_frames == 0.1 * config.total_frames


def test_the_answer_is_the_command_s(capsys):
    assert run(["train", "ppo", "--learning-rate", "3e-4", "--n-epochs", "10"]) == 2
    assert TEXT.split("```\n")[1] in capsys.readouterr().err
