"""Any command line does its work, or is refused with one line on stderr; nothing else happens, ever."""

import contextlib
import io
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from drawing import NO_ENVIRONMENTS, Field, base_of, fields_of, good, limited
from hypothesis import event, given, note
from hypothesis import strategies as st

from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.scripts.benchmark import BENCHMARKS
from rlpipe.scripts.main import COMMANDS, run

pytestmark = pytest.mark.slow

# none reads as a number, so that none can make a run long
GARBAGE = [
    "",
    " ",
    "x",
    "fast",
    "-x",
    "--",
    "-",
    "=",
    "a b",
    "größe",
    "迷路",
    "1e",
    "0x1",
    "nan",
    "inf",
    "-inf",
    "[1]",
    "\udcff",
]
# more than any field takes
HUGE = ["-1", "-0.5", "1e39", "1" * 20, "9" * 400, "9" * 5000, "-" + "9" * 400, "1e400", "2.5"]
SMALL = ["0", "1", "2", "3", "0.5", "none", "True", "1e-30"]
# what is slow without being wrong, or is shared with the tests around
UNTOUCHED = {"compile", "gif", "from_pixels", "threads", "backend", "max_episode_steps"}
PATHS = ["new", "new/deep", ".", "", "/", "/dev/null/x", "file", "file/below", "x" * 300, "迷路", "a b", "empty", "run"]
STRAY = [
    "stray",
    "ppo",
    "1",
    "-1",
    "-h",
    "--help",
    "--version",
    "--zzz",
    "---",
    "-",
    "--",
    "größe",
    "\udcff",
    "",
    "--json=1",
]

text = st.one_of(st.sampled_from(GARBAGE), st.text("abeiNx-= ", max_size=6))
stray = st.lists(st.sampled_from(STRAY), max_size=2)


def misspelled(words):
    """One of the words, or something like it."""
    words = st.sampled_from(sorted(words))
    like = st.one_of(words.map(lambda word: word[:-1]), words.map(lambda word: word + "x"), words.map(str.upper), text)
    return st.one_of(words, words, words, words, like)


def small_options(algorithm):
    """Options with which a run is over in a moment."""
    settings = {**base_of(algorithm), "final_eval_episodes": 1, "eval_every": 64}
    pairs = [("--" + name.replace("_", "-"), value) for name, value in settings.items()]
    return [part for name, value in pairs for part in (name, str(value[0] if isinstance(value, tuple) else value))]


def right_value(field: Field):
    """What the field allows, but little of it, as the command line has it."""
    if "bool" in str(field.hint):
        return st.none()
    if re.search("int|float", str(field.hint)):
        few = st.integers(0, 12).map(lambda step: str(step + math.ceil(max(field.bounds["at_least"] or 0, 0))))
        return st.one_of(few, few, st.sampled_from(["0.5", "1e-3"])) if "float" in str(field.hint) else few
    return good(field).map(str)


def wrong_value(field: Field):
    if "Literal" in str(field.hint):
        return st.sampled_from(["", "x", "迷路", "None", "CONSTANT"])
    if field.name in ("env_id", "eval_env_id"):
        return st.sampled_from([each for each in NO_ENVIRONMENTS if each.isprintable()])
    return st.one_of(st.sampled_from(SMALL), st.sampled_from(HUGE), text, st.none())


@st.composite
def option(draw, fields, right):
    """An option: its name right or wrong, its value behind it, behind an equals sign, or missing."""
    name = draw(st.sampled_from(sorted(set(fields) - UNTOUCHED)))
    value = draw((right_value if right else wrong_value)(fields[name]))
    usual = "--" + name.replace("_", "-")
    others = ["--" + name, usual[:-1], usual + "s", "--no-" + name]
    written = usual if right else draw(st.sampled_from([usual] * 12 + others))
    if value is None:
        return [written]
    return [f"{written}={value}"] if draw(st.booleans()) else [written, value]


@st.composite
def train_lines(draw):
    """Half of them with nothing wrong but, perhaps, values that do not fit each other."""
    right = draw(st.booleans())
    recipe = draw(st.sampled_from(sorted(RECIPES)) if right else misspelled(RECIPES))
    algorithm = RECIPES[recipe].algorithm if recipe in RECIPES else "ppo"
    options = draw(st.lists(option(fields_of(algorithm), right), max_size=2))
    parts = [part for each in options for part in each]
    if right:
        parts += draw(st.sampled_from([[], ["--json"]]))
        return ["train", recipe, *small_options(algorithm), "--quiet", "--run-dir", "new", *parts]
    if draw(st.integers(0, 20)) == 0:
        return ["train", "--seed", recipe]
    folder = draw(st.sampled_from(["new", "new", "new", *PATHS]))
    extra = draw(st.sampled_from([[], ["--start-from", "run"], ["--start-from", "nothing"]]))
    return ["train", recipe, *small_options(algorithm), "--quiet", "--run-dir", folder, *parts, *extra, *draw(stray)]


@st.composite
def reading_lines(draw):
    """Commands that take the folder of a run."""
    command = draw(st.sampled_from(["evaluate", "resume", "table"]))
    # a table searches below its folder, and what lies on the machine is not the same twice
    paths = [each for each in PATHS if (command, each) != ("table", "/")]
    path = draw(st.sampled_from(["run", "run", "run", *paths]))
    names = {
        "evaluate": ["--episodes", "--seed", "--stochastic", "--json", "--episode"],
        "resume": ["--total-frames", "--json", "--total", "--trust-module"],
        "table": ["--json", "--plot", "--plots", "run"],
    }[command]
    option_values = [*SMALL, *HUGE, *GARBAGE, "64", "x.png", "none/x.png", "run"]
    # whoever leaves these out has a hundred episodes to wait for
    options = {"evaluate": ["--episodes", "2"], "resume": ["--quiet"], "table": []}[command]
    if draw(st.integers(0, 2)) == 0:
        fine = {"evaluate": ["--stochastic", "--seed=3"], "resume": ["--total-frames=80"], "table": ["--plot=x.png"]}
        return [command, "run", *options, *draw(st.lists(st.sampled_from([*fine[command], "--json"]), max_size=2))]
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        options += [name, draw(st.sampled_from(option_values))] if draw(st.booleans()) else [name]
    return [command, path, *options, *(draw(stray) if draw(st.booleans()) else [])]


@st.composite
def other_lines(draw):
    """Everything else; benchmarks are not started."""
    command = draw(misspelled([*COMMANDS, "--help", "--version"]))
    junk = [*draw(stray), *draw(st.lists(text, max_size=3))]
    if command == "benchmark":
        what = draw(misspelled(BENCHMARKS))
        wrong = [["--seeds", "x"], ["--against", "x"], ["--help"], ["--seeds=1,1"], ["--zzz"], ["--seeds"], ["--out="]]
        return draw(
            st.sampled_from(
                [[command], [command, "--help"], [command, what, "--seeds=-1", *draw(st.sampled_from(wrong))]]
            )
        )
    if command in ("train", "evaluate", "resume", "table"):
        return [command, *junk, *draw(st.sampled_from([["--help"], ["nothing"], []]))]
    return [command, *junk]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert attempt(["train", "ppo", *small_options("ppo"), "--quiet", "--run-dir", str(folder)])[0] == 0
    return folder


def attempt(arguments):
    """Run a command line: its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(arguments):
            code = run(arguments)
    finally:
        torch.set_num_threads(threads)
    return code, out.getvalue(), err.getvalue()


def check(arguments, trained):
    """Run a command line in a folder of its own, and see that it ends as it should."""
    note(arguments)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            shutil.copytree(trained, "run")
            Path("file").write_text("mine")
            Path("empty").mkdir()
            code, out, err = attempt(arguments)
            assert Path("file").read_text() == "mine"
        finally:
            os.chdir(before)
    event(f"{arguments[0] if arguments[0] in COMMANDS else 'another'}: {code}")
    assert code in (0, 1, 2)
    assert "Traceback" not in out + err
    if code:
        assert err.startswith("rlpipe: error: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert out == ""
    else:
        assert "rlpipe: error" not in err
    return code, err


@given(arguments=train_lines())
def test_training(trained, arguments):
    code, err = check(arguments, trained)
    if code == 2:
        words = set(re.findall(r"\w+", err.replace("--", " ").replace("-", "_")))
        fields = {name for recipe in RECIPES.values() for name in fields_of(recipe.algorithm)}
        assert words & (fields | {"run_dir", "start_from", "recipe", "option", "options"}), err


@given(arguments=reading_lines())
def test_reading_runs(trained, arguments):
    check(arguments, trained)


@given(arguments=other_lines())
def test_other_commands(trained, arguments):
    check(arguments, trained)
