"""Algorithms of users, in files of their own: every command takes them as it takes a recipe."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest
from own_algorithm import MAKES_ENV, write

from rlpipe import trained
from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.algorithms.recipes import find_recipe
from rlpipe.pipelines.config.json_form import made
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts.main import run

QUIET = ["--quiet", "--json"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("rlpipe.user_files._LOADED", {})
    # other tests have files of these names too
    _forget_modules()
    yield
    _forget_modules()


def _forget_modules():
    for name in ("mine", "mine_helper", "other", "ppo"):
        sys.modules.pop(name, None)


def forget(monkeypatch):
    """As in another process: nothing of the user's was run."""
    monkeypatch.setattr("rlpipe.user_files._LOADED", {})
    monkeypatch.setattr("rlpipe.user_files._MODULES", set())
    sys.modules.pop("mine", None)


def said(capsys, *arguments, code=0):
    """Run a command and return what it printed: a summary, or the line of an error."""
    assert run(list(arguments)) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    if code:
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "Traceback" not in captured.err
        return captured.err
    return json.loads(captured.out) if "--json" in arguments else captured.out


def lines(folder):
    """Metrics without times, and evaluations."""
    found = []
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [json.loads(line) for line in Path(folder, name).read_text().splitlines()]
        found.append([{k: v for k, v in row.items() if "second" not in k} for row in rows])
    return found


def test_the_help_has_the_fields_of_the_config(capsys):
    out = said(capsys, "train", write(), "--help")
    assert "Train with the algorithm mine.py: A small PPO of mine." in out
    assert "Learning rate of mine. (default: 0.003)" in " ".join(out.split())
    assert "--eval-every" not in out


def test_every_command_takes_a_run_of_a_file(capsys):
    summary = said(capsys, "train", write(), "--seed", "3", "--lr", "0.001", *QUIET)
    assert (summary["recipe"], summary["seed"], summary["frames"]) == ("mine", 3, 512)
    folder = summary["run"]
    assert folder.startswith("runs/mine/3-")
    described = json.loads(Path(folder, "config.json").read_text())
    assert described["algorithm"] == "mine.py"
    assert described["config"]["lr"] == 0.001
    assert described["source"]["file"] == str(Path("mine.py").absolute())

    evaluation = said(capsys, "evaluate", folder, "--trust-module", "mine.py", "--json")["evaluation"]
    assert evaluation == summary["evaluation"]
    said(capsys, "export", folder, "--trust-module", "mine.py", "--out", "mine.safetensors")
    said(capsys, "render", folder, "--trust-module", "mine.py", "--out", "mine.gif", "--max-steps", "5", "--quiet")
    assert Path("mine.gif").stat().st_size > 0
    assert "`mine --lr 0.001`" in said(capsys, "table", "runs")
    pytest.importorskip("plotly")
    said(capsys, "report", "runs", "--out", "page.html")
    assert "mine --lr 0.001" in Path("page.html").read_text()


def test_another_command_runs_nothing_before_it_is_trusted(capsys, monkeypatch):
    folder = said(capsys, "train", write(), *QUIET)["run"]
    forget(monkeypatch)
    Path("mine.py").write_text("import pathlib\npathlib.Path('was-run').touch()\n" + Path("mine.py").read_text())
    for command in ("evaluate", "resume", "render", "export"):
        line = said(capsys, command, folder, code=2)
        assert "is of an algorithm of your own" in line
        assert f"add --trust-module {Path('mine.py').absolute()}" in line
    assert not Path("was-run").exists()
    said(capsys, "evaluate", folder, "--trust-module", "mine.py", "--episodes", "2", "--json")
    assert Path("was-run").exists()


def test_a_file_that_was_moved_is_named_anew(capsys, monkeypatch):
    folder = said(capsys, "train", write(), *QUIET)["run"]
    forget(monkeypatch)
    Path("there").mkdir()
    shutil.move("mine.py", "there/mine.py")
    assert "is not there any more; if you trust that, add --trust-module FILE, where" in said(
        capsys, "evaluate", folder, code=2
    )
    assert said(capsys, "evaluate", folder, "--trust-module", "there/mine.py", "--json")["recipe"] == "mine"
    assert "trust-module: there is no file mine.py" in said(
        capsys, "evaluate", folder, "--trust-module", "mine.py", code=2
    )
    # a file of another name is not the algorithm
    shutil.copy("there/mine.py", "other.py")
    forget(monkeypatch)
    assert "is of an algorithm of your own" in said(capsys, "evaluate", folder, "--trust-module", "other.py", code=2)


def test_a_source_that_has_changed_is_told(capsys, monkeypatch, caplog):
    folder = said(capsys, "train", write(), *QUIET)["run"]
    said(capsys, "evaluate", folder, "--trust-module", "mine.py", "--json")
    assert not caplog.records
    write("mine.py", ("A small PPO of mine", "Another PPO of mine"))
    said(capsys, "evaluate", folder, "--trust-module", "mine.py", "--json")
    (record,) = caplog.records
    assert "has changed since this run began" in record.message


def test_a_run_that_was_stopped_resumes_to_the_bit(capsys, monkeypatch):
    path = write("mine.py", ("class Config:", "class Config(RunConfig):"), ("import (", "import (\n    RunConfig,"))
    options = [
        "--total-frames",
        "1024",
        "--checkpoint-every",
        "256",
        "--eval-every",
        "300",
        "--eval-episodes",
        "2",
        *QUIET,
    ]
    whole = said(capsys, "train", path, "--run-dir", "whole", *options)
    stops = iter(range(100))
    with pytest.raises(KeyError):
        run_recipe(path, folder="part", **_as_keywords(options), progress=lambda _: {0: None}[max(0, next(stops) - 7)])
    assert len(lines("part")[0]) < len(lines("whole")[0])
    forget(monkeypatch)
    resumed = said(capsys, "resume", "part", "--trust-module", path, *QUIET)
    assert lines("part") == lines("whole")
    assert resumed["evaluation"] == whole["evaluation"]


def _as_keywords(options):
    pairs = [(name, value) for name, value in itertools.pairwise(options) if name[:2] == "--" != value[:2]]
    return {name.removeprefix("--").replace("-", "_"): int(value) for name, value in pairs}


def test_several_seeds_in_processes_of_their_own(capsys):
    found = said(capsys, "train", write(), "--seeds", "0-1", "--jobs", "2", "--lr", "0.001", *QUIET)
    assert [each["seed"] for each in found["summaries"]] == [0, 1]
    assert found["row"]["label"] == "mine --lr 0.001"
    alone = said(capsys, "train", "mine.py", "--seed", "1", "--lr", "0.001", *QUIET)
    assert alone["evaluation"] == found["summaries"][1]["evaluation"]


@pytest.mark.slow
@pytest.mark.parametrize("collector", ["processes", "ray"])
def test_collectors_in_other_processes_find_the_modules_of_a_file_elsewhere(capsys, collector):
    if collector == "ray":
        pytest.importorskip("ray")
    changes = [
        ("class Config:", "class Config(TrainConfig):"),
        ("import (", "import (\n    TrainConfig, make_pipeline, set_up,"),
        ("import torch\n", "import torch\nfrom mine_helper import Network\n"),
        (MAKES_ENV, "    _, seeds, env = set_up(config)"),
        ("MLP(4, 2, config.hidden)", "Network(2)"),
        (
            "    return Pipeline(collector, learn, actor, state)",
            "    return make_pipeline(config, env, actor, learn, seeds)",
        ),
        (
            "    total_frames: int = 512",
            "    num_envs: int = 4\n    rollout_steps: int = 16\n    total_frames: int = 256",
        ),
    ]
    path = write("elsewhere/mine.py", *changes)
    network = "class Network(nn.Linear):\n    def __init__(self, out):\n        super().__init__(4, out)\n"
    Path("elsewhere/mine_helper.py").write_text(f"from torch import nn\n\n{network}")
    options = ["--collector", collector, "--num-collectors", "2", "--eval-every", "none", *QUIET]
    assert said(capsys, "train", path, *options)["frames"] == 256


def test_python_trains_and_loads_what_the_command_does(capsys):
    summary = run_recipe(write(), seed=1, lr=1e-3, progress=None)
    with trained(summary["run"]) as agent:
        assert agent.config.hidden == (16,)
        assert agent.settings.eval_episodes == 20
    assert (
        summary["evaluation"] == said(capsys, "train", "mine.py", "--seed", "1", "--lr", "0.001", *QUIET)["evaluation"]
    )
    with pytest.raises(
        ConfigError, match="no option 'eval_every'; only a Config that inherits rlpipe.RunConfig has it"
    ):
        run_recipe("mine.py", eval_every=100)


def test_a_module_names_its_build_too(capsys, monkeypatch):
    monkeypatch.syspath_prepend(".")
    write("mine.py", ("def build(config):", "def smaller(config: Config):"), ("num_envs=4", "num_envs=2"))
    summary = said(capsys, "train", "mine:smaller", *QUIET)
    assert summary["recipe"] == "smaller"
    assert json.loads(Path(summary["run"], "config.json").read_text())["algorithm"] == "mine:smaller"
    forget(monkeypatch)
    with pytest.raises(CheckpointError, match="the module 'mine'; if you trust that, add --trust-module mine"):
        trained(summary["run"]).__enter__()
    assert said(capsys, "evaluate", summary["run"], "--trust-module", "mine", "--json")["recipe"] == "smaller"


def test_an_environment_in_the_same_file_needs_no_other_trust(capsys, monkeypatch):
    changes = [
        ('env_id: str = "CartPole-v1"', "env_id: str = short"),
        ("@dataclass", 'def short():\n    return gym.make("CartPole-v1", max_episode_steps=7)\n\n\n@dataclass'),
        ("import torch\n", "import gymnasium as gym\nimport torch\n"),
    ]
    summary = said(capsys, "train", write("mine.py", *changes), *QUIET)
    assert summary["env_id"] == "mine:short"
    assert summary["evaluation"]["mean"] == 7
    forget(monkeypatch)
    assert said(capsys, "evaluate", summary["run"], "--trust-module", "mine.py", "--json")["evaluation"]["mean"] == 7
    forget(monkeypatch)
    said(capsys, "resume", summary["run"], "--trust-module", "mine.py", "--total-frames", "576", *QUIET)


def test_a_run_folder_cannot_name_any_module_that_is_imported(capsys, monkeypatch):
    folder = said(capsys, "train", write(), *QUIET)["run"]
    place = Path(folder, "config.json")
    described = json.loads(place.read_text())
    place.write_text(json.dumps({**described, "source": {**described["source"], "file": None, "module": "shutil"}}))
    assert "runs the code of the module 'shutil'" in said(capsys, "evaluate", folder, code=2)
    # trust in the file is none in another module
    config = {**described["config"], "env_id": "antigravity:Env-v0"}
    source = {**described["source"], "module": "antigravity"}
    for wrong in (
        source,
        [source],
        "mine",
        3,
        {"module": "mine"},
        {**described["source"], "file": 3},
        {**described["source"], "digest": 3},
    ):
        place.write_text(json.dumps({**described, "config": config, "source": wrong}))
        line = said(capsys, "evaluate", folder, "--trust-module", "mine.py", code=2)
        assert "its config.json is not one that rlpipe wrote" in line
    assert "antigravity" not in sys.modules


def test_a_file_with_the_name_of_a_recipe_is_another_algorithm(capsys):
    summary = said(capsys, "train", write("ppo.py"), *QUIET)
    assert summary["recipe"] == "ppo.py"
    assert "`ppo.py`" in said(capsys, "table", "runs")


def test_runs_of_other_sources_are_other_rows(capsys):
    said(capsys, "train", write(), *QUIET)
    write("mine.py", ("max_norm=0.5", "max_norm=0.1"))
    said(capsys, "train", "mine.py", "--seed", "1", *QUIET)
    assert said(capsys, "table", "runs").count("| `mine (program ") == 2


@pytest.mark.parametrize(
    ("changes", "arguments", "line"),
    [
        ([], ["--lr", "fast"], "--lr is 'fast'; expected a number"),
        ([], ["--learning-rate", "1"], "no option is called --learning-rate; it is --lr here"),
        ([], ["--eval-every", "1"], "only a Config that inherits rlpipe.RunConfig has it"),
        ([], ["--env-id", "CartPol-v1"], "CartPole"),
        (
            [("seed: int = 0", "chance: int = 0")],
            [],
            "Config has no field 'seed', a whole number, which every run needs",
        ),
        ([("lr: float = 3e-3", "lr: float = 'a'")], [], "lr is 'a'; expected a finite number"),
        ([('env_id: str = "CartPole-v1"', "env_id: str")], [], "env_id of Config has no default"),
        ([("lr: float = 3e-3", "lr: object = object")], [], "lr is <class 'object'>, which config.json cannot hold"),
        ([("class Config:", "class Options:")], [], "mine.py has no Config; expected a dataclass with its options"),
        ([("@dataclass(frozen=True)\n", "")], [], "expected a dataclass with its options"),
        (
            [("MLP(4, 2", "MLP(4, 3")],
            [],
            "mine.py, line 43: the network of CategoricalActor gives 3 numbers",
        ),
        (
            [("(collector, learn, actor", "(None, learn, actor")],
            [],
            "collector of the Pipeline is None; expected a coll",
        ),
        (
            [("(collector, learn, actor", "(collector, None, actor")],
            [],
            "learn of the Pipeline is None; expected a fun",
        ),
        (
            [("(collector, learn, actor", "(collector, learn, None")],
            [],
            "policy of the Pipeline is None; expected a Te",
        ),
        ([("actor, state)", "actor, [actor])")], [], "state of the Pipeline is [Cate"),
        ([("actor, state)", "actor, state, (), print)")], [], "listeners of the Pipeline is <built-in function print>"),
        ([("actor, state)", "actor, state, (), [3])")], [], "a listener is 3; expected a function of one argument"),
        ([("lr: float = 3e-3", "lr: list[int] = 1")], [], "lr is 1; expected list[int]"),
        (
            [("lr: float = 3e-3", "lr: 'Unknown' = 1")],
            [],
            "types of Config cannot be read: name 'Unknown'",
        ),
        ([("(config):", "(config, seed):")], [], "mine.py has build(config, seed); expected build(config)"),
        ([("build(config):", "build():")], [], "mine.py has build(); expected build(config)"),
        ([("def build", "def make")], [], "mine.py has no 'build'; an algorithm is a Config"),
        ([("    return Pipeline(", "    (")], [], "build of mine.py returned None; expected a Pipeline"),
        (
            [("import torch", "import torche")],
            [],
            "cannot be loaded: ModuleNotFoundError: No module named 'torche' (line 8)",
        ),
        ([("class Config:", "class Config")], [], "cannot be loaded: SyntaxError"),
        (
            [("    lr:", "    def __post_init__(self):\n        raise ValueError('too small')\n    lr:")],
            [],
            "too small",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(capsys, changes, arguments, line):
    write("mine.py", *changes)
    assert line in said(capsys, "train", "mine.py", *arguments, code=2)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing.py", "algorithm nothing.py: there is no file nothing.py"),
        ("mine.py:smaller", "mine.py has no 'smaller'"),
        ("mine.py:Config", "mine.py:Config"),
        ("random.py", "'random', the name of"),
        ("my-own.py", "cannot be the name of a module; rename the file"),
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("pp0", "no recipe is called 'pp0'; did you mean ppo?"),
    ],
)
def test_a_wrong_name_is_one_line(capsys, name, line):
    for each in ("mine.py", "random.py", "my-own.py"):
        write(each)
    assert line in said(capsys, "train", name, code=2)


def test_the_config_may_be_the_class_that_build_is_annotated_with():
    path = write("mine.py", ("class Config:", "class Mine:"), ("def build(config):", "def build(config: Mine):"))
    assert find_recipe(path).config_class.__qualname__ == "Mine"


@pytest.mark.parametrize("text", ["two-words:build", "mine:", ":build", "mine:two-words"])
def test_other_text_is_the_name_of_a_recipe(text):
    with pytest.raises(ConfigError, match="no recipe is called"):
        find_recipe(text)


def test_the_error_of_a_config_stays_as_it_is():
    def refuse():
        raise ConfigError("lr is too large")

    with pytest.raises(ConfigError, match="^lr is too large$"):
        made(refuse, {})


def test_normalised_rewards_need_a_discount(capsys):
    changes = [
        ("class Config:", "class Config(TrainConfig):"),
        ("import (", "import (\n    TrainConfig, set_up,"),
        (MAKES_ENV, "    _, seeds, env = set_up(config)"),
    ]
    line = said(capsys, "train", write("mine.py", *changes), "--normalize-reward", code=2)
    assert "needs a field gamma; let Config inherit RolloutConfig" in line


@pytest.mark.parametrize(
    ("changes", "arguments", "line"),
    [
        ([], ["--lr", "0.01"], ""),
        ([("lr=config.lr", "lr=0.001")], ["--lr", "0.003"], ""),
        ([("lr=config.lr", "lr=0.001")], ["--lr", "0.01"], "--lr changes nothing: build does not read config.lr"),
        ([("lr=config.lr", "lr=vars(config)['lr']")], ["--lr", "0.01"], ""),
        ([("Adam(loss.", "Adam(critic.")], [], "policy.network.0.weight and 3 more will not learn: no optimizer"),
        ([("Adam(loss.", "Adam(actor.")], [], "loss.critic.network.0.weight and 3 more will not learn: no optimizer"),
        ([("    optimizer =", "    critic.requires_grad_(False)\n    optimizer =")], [], ""),
    ],
)
def test_what_a_build_has_forgotten_is_a_warning(caplog, capsys, changes, arguments, line):
    with caplog.at_level("WARNING", logger="rlpipe"):
        said(capsys, "train", write("mine.py", *changes), *arguments, *QUIET)
    assert [each.getMessage() for each in caplog.records if line not in each.getMessage()] == []
    assert len(caplog.records) == bool(line)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ([("(4, 1,", "(5, 1,")], "mine.py: the network of Critic cannot take key 'observation'"),
        ([("LazyTensorStorage(64)", "LazyTensorStorage(32)")], "mine.py: the buffer has room for 32 frames"),
        ([("    return Pipeline(", "    learn = lambda batch: None\n    return Pipeline(")], "learn returned NoneType"),
    ],
)
def test_misuse_that_training_finds_is_one_line(capsys, changes, line):
    assert line in said(capsys, "train", write("mine.py", *changes), "--quiet", code=2)


def test_a_mistake_of_the_users_own_is_a_traceback():
    write("mine.py", ("    loss = ", "    int('own')\n    loss = "))
    with pytest.raises(ValueError, match="invalid literal"):
        run(["train", "mine.py", "--quiet"])
