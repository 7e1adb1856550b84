"""Option names of other libraries: each answer is right for the recipe that it is given for; and slips."""

import dataclasses
import re

import pytest

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import RECIPES, owners_of
from rlpipe.pipelines.config.foreign_names import ABSENT, CHANGED, RENAMED, explain
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts.cli import help as described
from rlpipe.scripts.cli.train_options import Options
from rlpipe.scripts.main import run
from rlpipe.spelling import nearest

THEIRS = [*(name for names in RENAMED.values() for name in names.split()), *" ".join([*CHANGED, *ABSENT]).split()]
ONE_OF_EACH = {recipe.algorithm: recipe for recipe in RECIPES.values()}.values()


def options_of(recipe):
    return [each.name for each in described.options_of(Options(recipe.config()))]


@pytest.mark.parametrize("recipe", ONE_OF_EACH, ids=lambda recipe: recipe.algorithm)
def test_every_answer_names_options_that_the_recipe_has(recipe):
    names = options_of(recipe)
    for theirs in set(THEIRS) - set(names):
        answer = explain(theirs, names, owners_of)
        assert answer, theirs
        named = re.findall(r"--([a-z-]+)", answer)
        if found := re.match(r"other recipes have --([a-z-]+) for it", answer):
            assert owners_of(found[1]), answer
            assert recipe.algorithm not in owners_of(found[1]), answer
        elif "rlpipe train" not in answer:
            assert set(named) <= set(names), answer
        # a keyword argument is a field of the Config
        named = [field.name for field in dataclasses.fields(recipe.config())]
        fields = [*named, "env", "wrappers", "folder", "progress", "loggers"]
        answer = explain(theirs.replace("-", "_"), fields, owners_of, python=True)
        assert answer, theirs
        if found := re.match(r"it is ([a-z_]+)", answer):
            assert found[1] in fields, answer


def test_no_name_is_listed_twice_or_is_one_of_ours_everywhere():
    assert len(THEIRS) == len(set(THEIRS))
    everywhere = set.intersection(*(set(options_of(recipe)) for recipe in ONE_OF_EACH))
    # which is ours only on the command line
    assert everywhere & set(THEIRS) == {"config"}


WITH_VALUES = sorted({ours for ours, _ in CHANGED.values() if " " in ours and not ours.startswith("logger")})


@pytest.mark.parametrize("target", WITH_VALUES)
def test_a_value_that_is_named_is_allowed(target):
    name, value = target.split(" ", 1)
    field = name.replace("-", "_")
    recipe = RECIPES[(owners_of(field) or ["ppo"])[0]]
    dataclasses.replace(recipe.config(), **{field: int(value) if value.isdigit() else value})


ANSWERS = {
    ("ppo", "--learning-rate"): "it is --lr here",
    ("q-learning/maze", "--learning_rate"): "it is --step-size here",
    ("ppo", "--total-timesteps=1e6"): "it is --total-frames here",
    ("dqn", "-n"): "it is --total-frames here",
    ("dqn", "-tb"): "it is --logger tensorboard here, the default; it writes into the run folder",
    ("dqn", "--num-gpus"): "it is --device cuda here, or cpu, the default",
    ("ppo", "--n-steps"): "it is --rollout-steps here",
    ("ppo", "--num-minibatches"): "it is --minibatch-size here, the size of one: --num-envs * --rollout",
    ("a2c", "--clip-range"): "other recipes have --clip for it, this one has no such option",
    ("dqn", "--exploration-fraction"): "it is --epsilon-frames here, in frames: the fraction times --total-frames",
    (
        "dqn",
        "--target-network-frequency",
    ): "it is --target-every here, in gradient steps, not in frames; --tau 1 copies",
    ("ppo", "--anneal-lr"): "it is --lr-schedule linear here",
    ("ppo", "--norm-adv"): "it is normalize-advantage here, and on; --no-normalize-advantage switches it off",
    ("ppo", "--track=True"): "it is --logger wandb here",
    ("ppo", "--no-track"): "it is --logger wandb here",
    ("ppo", "--wandb-entity"): "the environment variable WANDB_ENTITY names it, with --logger wandb",
    ("dqn", "--target-kl"): "only ppo has it",
    ("ppo", "--vec-env"): "it is --backend here, auto for dummy, async for subproc",
    ("ppo", "--env"): "it is --env-id here",
    ("ppo", "--buffer-size"): "only dqn, qr-dqn, sac and td3 have it",
    ("ppo", "--normalize-advantage"): "it is on here; --no-normalize-advantage switches it off",
    ("ppo", "--learnin-rate"): "if that is --learning-rate: it is --lr here",
    ("ppo", "--num-env"): "it is --num-envs here",
    ("ppo", "--gama"): "did you mean --gamma?",
    ("ppo", "--entropy"): "did you mean --entropy-coefficient?",
}


@pytest.mark.parametrize(("recipe", "option"), ANSWERS)
def test_answers(recipe, option, capsys):
    assert run(["train", recipe, option, "3"]) == 2
    err = capsys.readouterr().err
    name = option.split("=")[0].replace("_", "-")
    assert err.startswith(f"rlpipe: error: no option is called {name}; {ANSWERS[recipe, option]}")
    assert err.count("\n") == 1


def test_all_unknown_options_are_answered_at_once(capsys):
    assert run(["train", "ppo", "--learning-rate", "3e-4", "--clp", "1", "--n-epochs", "3"]) == 2
    assert capsys.readouterr().err == (
        "rlpipe: error: no option is called --learning-rate; it is --lr here. Nor --clp; did you mean --clip? "
        "Nor --n-epochs; it is --epochs here\n"
    )


@pytest.mark.parametrize("algo", [["--algo", "ppo"], ["--algo=ppo", "--env", "CartPole-v1"]])
def test_the_recipe_is_no_option(algo, capsys):
    assert run(["train", *algo]) == 2
    assert "the recipe comes before the options: rlpipe train ppo" in capsys.readouterr().err


def test_other_commands_answer_what_they_have(capsys):
    run(["evaluate", "x", "--n-eval-episodes", "3"])
    assert "no option is called --n-eval-episodes; it is --episodes here" in capsys.readouterr().err
    run(["resume", "x", "--total-timesteps", "3"])
    assert "no option is called --total-timesteps; it is --total-frames here" in capsys.readouterr().err
    run(["resume", "x", "--clip-range", "3"])
    assert "no option is called --clip-range; see --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("learning_rate", "it is lr here"),
        ("n_steps", "it is rollout_steps here"),
        ("num_minibatches", "it is minibatch_size here, the size of one: num_envs * rollout_steps / num-minibatches"),
        ("track", "it is loggers='wandb' here"),
        ("anneal_lr", "it is lr_schedule='linear' here, or constant"),
        ("exp_name", "it is folder here"),
        (
            "verbose",
            "a bar is shown by default, and nothing with progress=False; a function is called with every event",
        ),
        ("seeds", "only the command has it, rlpipe train --seeds"),
        ("tau", "only dqn, qr-dqn, sac and td3 have it"),
        ("total_frame", "did you mean total_frames?"),
        ("zzz", "there are env_id, env_kwargs, "),
        ("env_wrapper", "it is wrappers here"),
        ("env_kwarg", "did you mean env_kwargs?"),
        ("n_stack", "it is frame_stack here"),
        ("frame_skip", "it is action_repeat here"),
        ("vec_env_kwargs", "wrappers wraps each environment; num_envs of them step together"),
    ],
)
def test_answers_in_python(option, answer, tmp_path):
    with pytest.raises(ConfigError, match=f"^ppo has no option '{option}'; {re.escape(answer)}"):
        run_recipe("ppo", folder=tmp_path / "run", **{option: 1})


FAR_FETCHED = ["zzz", "attention", "batch", "beam", "steps-per-epoch", "lstm", "rank", "tracer", "warm", "x", "lrate"]
FAR_FETCHED += ["num-layers", "depth", "ga", "stop", "eval", "clipping-epsilon", "opt", "a", "trains", "horizons"]


@pytest.mark.parametrize("name", FAR_FETCHED)
def test_a_far_fetched_neighbour_is_not_suggested(name):
    names = options_of(RECIPES["ppo"])
    answer = explain(name, names, owners_of)
    assert "did you mean" not in answer or nearest(name, names).startswith(name)


SLIPS = {"gama": "gamma", "Gamma": "gamma", "plto": "plot", "minibatch-szie": "minibatch-size", "num-env": "num-envs"}
SLIPS |= {"ot": "out", "entropy": "entropy-coefficient", "rollout_steps": "rollout-steps", "clp": "clip"}
KNOWN = ["gamma", "plot", "minibatch-size", "num-envs", "out", "entropy-coefficient", "rollout-steps", "clip", "lr"]


@pytest.mark.parametrize(("slip", "meant"), SLIPS.items())
def test_slips(slip, meant):
    assert nearest(slip, KNOWN) == meant


@pytest.mark.parametrize("name", ["", "batch", "lmbda", "gif", "output", "rl", "plumb", "num", "entropic", "slip"])
def test_no_slips(name):
    assert nearest(name, KNOWN) is None
    assert nearest(name, []) is None
