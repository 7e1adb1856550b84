"""The help of the commands: every option in one group, in words for people, and within the terminal."""

import dataclasses
import re
from dataclasses import dataclass

import pytest

from rlpipe import RunConfig
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.scripts.cli.help import GROUPS, help_of, options_of
from rlpipe.scripts.cli.train_options import Options
from rlpipe.scripts.main import COMMANDS, run


def said(capsys, *arguments):
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def groups_of(text):
    """The options below each heading, each with its first line."""
    found = {}
    for line in text.splitlines():
        if line in GROUPS:
            group = found.setdefault(line, [])
        elif line.startswith("  --"):
            group.append(line.split()[0])
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_a_recipe_is_in_one_group_and_has_a_text(recipe):
    options = options_of(Options(RECIPES[recipe].config()))
    assert all(each.text and each.group in GROUPS and each.group != "options" for each in options)
    config = RECIPES[recipe].config()
    names = {each.name for each in (*dataclasses.fields(config), *dataclasses.fields(Options))}
    shown = [each for group in groups_of(help_of(options, "", "")).values() for each in group]
    assert sorted(shown) == sorted(f"--{each.name}" for each in options)
    assert {each.field for each in options} == names


def test_what_an_algorithm_adds_is_its_own(capsys):
    groups = groups_of(said(capsys, "train", "dqn", "--help"))
    assert list(groups) == [each for each in GROUPS if each != "options"]
    examples = {"run": "--seed", "environment": "--env-id", "algorithm": "--kind", "exploration": "--epsilon-start"}
    examples |= {"replay": "--buffer-size", "network": "--hidden", "optimiser": "--lr", "evaluation": "--eval-every"}
    examples |= {"output": "--watch", "collection": "--collector", "Ray": "--ray-cpus"}
    for group, option in examples.items():
        assert option in groups[group]


def test_what_every_command_has_comes_last(capsys):
    assert groups_of(said(capsys, "evaluate", "--help"))["options"][-2:] == ["--trust-module", "--json"]


def test_a_recipe_tells_of_files_of_options(capsys):
    assert "--config FILE reads options" in said(capsys, "train", "ppo", "--help")


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_wider_than_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in ([], ["recipes"], *([each, "--help"] for each in COMMANDS), ["benchmark", "solve", "--help"]):
        assert max(map(len, said(capsys, *arguments).splitlines())) <= columns
    assert columns - 5 < max(map(len, said(capsys, "train", "ppo", "--help").splitlines())) <= columns


def test_values_are_in_words(capsys):
    text = said(capsys, "train", "ppo", "--help")
    for words in (
        "--eval-every FRAMES|none ",
        "--lr NUMBER ",
        "--hidden N ... ",
        "--activation relu|tanh|silu\n",
        "--env-kwargs JSON ",
        "--seeds SEEDS ",
        "--jobs N|ray ",
        "--total-episodes EPISODES\n",
        "--json  ",
    ):
        assert f"  {words}" in text
    assert not re.search("None|STR|INT|FLOAT|TUPLE|`", text)


def test_texts_say_what_a_flag_switches_off_and_name_options_as_they_are_typed(capsys):
    text = " ".join(said(capsys, "train", "ppo", "--help").split())
    assert "--no-normalize-advantage Switch off: normalise the advantages of each minibatch" in text
    assert "with a return of --success-return or more. --success-return" in text
    # `clip` is an option of ppo, and here it is a choice
    assert "or clip rewards to [-1, 1]" in text
    assert "--seed N Seed of every random stream of the run. (default: 0)" in text
    assert "--hidden N ... Sizes of the hidden layers. (default: 128)" in text
    assert "--success-return RETURN Lowest return that counts as a success. (default: 475)" in text


def test_a_config_of_ones_own():
    @dataclass(frozen=True)
    class Config(RunConfig):
        env_id: str = "CartPole-v1"
        lr: float = 1e-3  # learning rate of mine
        noisy: bool = True
        """Use noisy layers."""
        bare: int = 3
        on: bool = True
        either: int | str = 3

    options = {each.field: each for each in options_of(Options(Config()))}
    assert [options[name].group for name in ("env_id", "lr", "noisy", "bare", "seed")] == [
        "environment",
        *("algorithm", "algorithm", "algorithm", "run"),
    ]
    assert options["env_id"].text.startswith("Gymnasium id")
    assert options["lr"].text == "learning rate of mine"
    assert options["noisy"].explained({}) == "Switch off: use noisy layers."
    assert options["bare"].explained({}).split() == ["(default:", "3)"]
    assert options["on"].explained({}) == "Switch on off."
    assert options["either"].value == "N|EITHER"


def test_a_config_with_an_option_of_the_command_is_refused(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\nimport rlpipe\n\n@dataclass(frozen=True)\n"
        "class Config(rlpipe.RunConfig, rlpipe.EnvironmentConfig):\n    json: int = 4\n\n"
        "def build(config):\n    raise AssertionError\n"
    )
    assert run(["train", str(path), "--quiet"]) == 2
    expected = "rlpipe: error: Config has a field 'json', which is an option of the command too; rename it\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("command", ["evaluate", "render", "export", "resume"])
def test_a_command_without_its_run_prints_its_help(capsys, command):
    text = said(capsys, command)
    assert text == said(capsys, command, "--help")
    assert text.startswith(f"usage: rlpipe {command} RUN [options]\n")
    assert "  --trust-module MODULE ...\n" in text


def test_arguments_without_a_name(capsys):
    text = said(capsys, "table", "--help")
    assert text.startswith("usage: rlpipe table [RUN ...] [options]\n")
    assert "  RUN ...                   Run folders" in text
