"""Options from a file: what `--print-config` prints gives the same config, and what does not fit is one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml
from own_algorithm import write

import rlpipe
from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import RECIPES, find_recipe
from rlpipe.pipelines.algorithms.recipes.config_file import as_text, from_file, with_options

CHANGES = {
    "schedule": ("success_return=cosine:0.123456789:0.99:1000",),
    "env_kwargs": {"sutton_barto_reward": True, "sizes": [1, [2]]},
    "eval_env_kwargs": {},
    "wrapper": ('gymnasium.wrappers:ClipReward {"max_reward": 1}',),
    "log_info": ("speed", "x.y:last"),
    "stop_at_return": 475.5,
    "eval_env_id": "CartPole-v0",
    "seed": 2**62,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(content, named=None, trusted=(), name="options.json"):
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return from_file(Path(name), named, trusted)


def refused(content, named=None, trusted=(), name="options.json"):
    with pytest.raises(ConfigError) as caught:
        read(content, named, trusted, name)
    message = str(caught.value)
    assert message.startswith(f"config {name}")
    assert "\n" not in message
    return message.removeprefix(f"config {name}").lstrip(": ")


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_printed_is_read_back(name):
    recipe, default = RECIPES[name], RECIPES[name].config()
    known = {field.name for field in dataclasses.fields(default)}
    changed = dataclasses.replace(default, **{each: value for each, value in CHANGES.items() if each in known})
    for config in (default, changed):
        text = as_text(recipe, config)
        assert read(text) == (recipe, config)
        assert read(text, recipe) == (recipe, config)
        assert read(yaml.safe_dump(json.loads(text)), name="options.yml") == (recipe, config)


def test_what_a_file_leaves_out_is_the_recipes():
    content = (
        "recipe: dqn/small\nlr: 1e-3\ntau: .5E-2\nhidden: [32, 32]\neval_every: none\nepsilon_start: 1\nseed: 1_000\n"
    )
    recipe, config = read(content, name="options.yaml")
    expected = {"lr": 1e-3, "tau": 0.005, "hidden": (32, 32), "eval_every": None, "epsilon_start": 1.0, "seed": 1000}
    assert (recipe, config) == (RECIPES["dqn/small"], dataclasses.replace(RECIPES["dqn/small"].config(), **expected))
    assert read("recipe: ppo\ntotal_frames: 1e4\n", name="options.yaml")[1].total_frames == 10_000
    # from Python too
    given = with_options(recipe, {"hidden": [32, 32], "total_frames": 1e4}, "dqn/small")
    assert (given.hidden, repr(given.total_frames)) == ((32, 32), "10000")
    # a schedule in place of a number, and of the recipe's own one
    assert read({"recipe": "ppo", "clip": "linear:0.2:0"})[1].schedule == ("clip=linear:0.2:0",)
    # without a recipe in the file, the one beside it counts
    assert read({"lr": 0.5}, RECIPES["a2c"])[1] == dataclasses.replace(RECIPES["a2c"].config(), lr=0.5)


def test_a_runs_own_config_is_taken_as_it_is():
    small = {"total_frames": 64, "num_envs": 2, "rollout_steps": 32, "minibatch_size": 32, "final_eval_episodes": 1}
    rlpipe.train("ppo", folder="run", progress=False, clip="linear:0.2:0.1", hidden=(8,), loggers=None, **small)
    recipe, config = from_file(Path("run/config.json"), None)
    assert (recipe.name, recipe.algorithm, config.schedule) == ("ppo", "ppo", ("clip=linear:0.2:0.1",))
    described = json.loads(Path("run/config.json").read_text())
    # of an older version, which had fewer fields, and one more
    older = {name: value for name, value in described["config"].items() if name not in ("time_aware", "target_kl")}
    assert read({**described, "config": {**older, "normalize_frames": None}})[1] == config
    assert "the config has an unknown field 'lrr'; did you mean lr?" in refused(
        {**described, "config": {**older, "lrr": 3}}
    )
    assert "no algorithm is called 'pppo'" in refused({**described, "algorithm": "pppo"})
    assert "it is of the recipe ppo, and ppo/atari was named" in refused(described, RECIPES["ppo/atari"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "holds [1]; expected an object of options"),
        ("3", "holds 3; expected an object of options"),
        ("", "is not JSON: Expecting value: line 1 column 1"),
        ('{"lr": 1', "is not JSON: Expecting ',' delimiter: line 1 column 9"),
        ('{"recipe": "ppo", "lr": 1, "lr": 2}', "has 'lr' twice"),
        ('{"recipe": "ppo", "env_kwargs": {"a": 1, "a": 2}}', "has 'a' twice"),
        ("[" * 100_000, "is nested too deeply"),
        ({}, 'it names no recipe; add "recipe", or name one: rlpipe train ppo --config options.json'),
        ({"recipe": 3}, "recipe is 3; expected the name of a recipe"),
        ({"recipe": "ppoo"}, "no recipe is called 'ppoo'; did you mean ppo?"),
        ({"recipe": "ppo", "lrr": 3}, "ppo has no option 'lrr'; did you mean lr?"),
        ({"recipe": "ppo", "n_steps": 3}, "ppo has no option 'n_steps'; it is rollout_steps here"),
        ({"recipe": "ppo", "tau": 3}, "ppo has no option 'tau'; only dqn, qr-dqn, sac and td3 have it"),
        ({"recipe": "ppo", "lr": "fast"}, "lr is 'fast'; a schedule is KIND:START:END"),
        ({"recipe": "ppo", "lr": None}, "lr is None; expected a finite number"),
        ({"recipe": "ppo", "hidden": 64}, "hidden is 64; expected a list, each a whole number"),
        ({"recipe": "ppo", "hidden": [[64]]}, "hidden is ((64,),); expected a list, each a whole number"),
        ({"recipe": "ppo", "gamma": 1.5}, "gamma is 1.5; allowed is 0 or more and at most 1"),
        ({"recipe": "ppo", "env_kwargs": [1]}, "env_kwargs is (1,); expected"),
        ({"recipe": "ppo", "env_id": "mine:Env-v0"}, "is one of 'mine:Env-v0', and loading it runs the code of"),
        ({"recipe": "ppo", "wrapper": ["os:system"]}, "is one with the wrapper 'os:system', and loading it runs"),
    ],
)
def test_what_does_not_fit_names_the_file_and_the_field(content, said):
    assert refused(content).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lr: 1\nlr: 2", "has 'lr' twice"),
        ("1: 2", "has 1 in place of a name; expected text"),
        ("recipe: [ppo\nlr: 2", "is not YAML: expected ',' or ']', but got ':', line 2 column 3"),
        ("- lr", "holds ['lr']; expected an object of options"),
        ("!!python/object/apply:os.system ['true']", "is not YAML: could not determine a constructor"),
        ("recipe: ppo\nhidden: &a [64]\nwrapper: *a", "has the alias *a in line 3; write the value"),
        ("recipe: ppo\n<<: {lr: 1}", "is not YAML: could not determine a constructor"),
        ("recipe: ppo\nlr: 2024-01-01", "lr is datetime.date(2024, 1, 1); expected a finite number"),
    ],
)
def test_yaml_that_does_not_fit(content, said):
    assert refused(content, name="options.yaml").startswith(said)


def test_a_file_that_cannot_be_read():
    for name, said in (("none.json", "No such file"), (".", "cannot be read"), ("bytes.json", "is no text")):
        Path("bytes.json").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match=f"^config {name}.* {said}"):
            from_file(Path(name), None)


def test_the_code_of_an_algorithm_is_trusted_by_name():
    file = write("mine.py", ("lr: float = 3e-3", "lr: float = 4e-3"))
    said = refused({"recipe": "mine.py", "lr": 0.5})
    assert said.startswith("is of an algorithm of your own, and loading it runs the code of the file")
    assert f"--trust-module {Path('mine.py').absolute()}" in said
    recipe, config = read({"recipe": "mine.py", "lr": 0.5}, trusted=["mine.py"])
    assert (recipe.name, config.lr, config.seed) == ("mine", 0.5, 0)
    # from then on this process has run it
    assert read(as_text(recipe, config)) == (recipe, config)
    assert read({"lr": 0.25}, find_recipe(file))[1].lr == 0.25
    Path("mine.py").unlink()
    shutil.rmtree("__pycache__", ignore_errors=True)
