"""The command line as its user meets it: what it prints where, its exit codes, and bad input in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import Python

import rlpipe
from rlpipe.pipelines.algorithms.recipes import RECIPES
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.seeding import Seeds
from rlpipe.scripts.main import run

ROOT = Path(__file__).parents[2]
QUICK = ["--total-frames", "512", "--eval-every", "256", "--eval-episodes", "2", "--final-eval-episodes", "3"]
PPO = [*QUICK, "--num-envs", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--epochs", "1"]
DQN = [*QUICK, "--num-envs", "4", "--updates", "1", "--warmup-frames", "64"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments):
    """Run a command that must be refused, and return its one line."""
    before = sorted(Path().rglob("*"))
    assert run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert sorted(Path().rglob("*")) == before, "something was written"
    return captured.err


def test_train_prints_only_the_summary_on_stdout(capsys):
    assert run(["train", "ppo", *PPO, "--run-dir", "here"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("ppo on CartPole-v1, seed 0\n  evaluation  return ")
    assert captured.out.count("\n") == 8
    assert "  best        return " in captured.out
    assert "over 3 greedy episodes" in captured.out
    assert "512" in captured.out
    assert str(Path("here") / "curve.png") in captured.out
    assert "ppo 100%" in captured.err
    assert "return: training " in captured.err
    assert ", KL " in captured.err
    names = {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "evaluations.jsonl",
        "checkpoints",
        "curve.png",
        "tensorboard",
        "lock",
        "best.json",
    }
    assert {path.name for path in Path("here").iterdir()} == names
    rows = [json.loads(line) for line in Path("here/evaluations.jsonl").read_text().splitlines()]
    assert [(row["frames"], row["final"], len(row["returns"])) for row in rows] == [
        (256, False, 2),
        (512, False, 2),
        (512, True, 3),
    ]


def test_train_json_and_quiet(capsys):
    assert run(["train", "dqn", *DQN, "--seed", "4", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    summary = json.loads(captured.out)
    assert list(summary) == [
        "recipe",
        "env_id",
        "eval_env_id",
        "seed",
        "frames",
        "updates",
        "episodes",
        "seconds",
        "frames_per_second",
        "waited",
        "stopped_early",
        "stopped_by",
        "longest_streak",
        "evaluation",
        "best",
        "run",
    ]
    assert (summary["recipe"], summary["env_id"], summary["seed"], summary["frames"]) == ("dqn", "CartPole-v1", 4, 512)
    assert list(summary["waited"]) == ["all", "training", "evaluation", "rest"]
    assert set(summary["evaluation"]) == {"episodes", "mean", "std", "min", "max"}
    assert not summary["stopped_early"]
    assert Path(summary["run"]).parts[:2] == ("runs", "dqn")
    config = json.loads((Path(summary["run"]) / "config.json").read_text())
    assert config["config"]["num_envs"] == 4


def test_stop_at_return(capsys):
    assert run(["train", "ppo", *PPO, "--stop-at-return", "1", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames"], summary["stopped_early"]) == (256, True)


@pytest.fixture
def evaluations(monkeypatch):
    """The arguments of every evaluation, each of which is made as usual."""
    made = []

    def record(policy, env_config, **options):
        made.append(options)
        return evaluate(policy, env_config, **options)

    for module in ("pipelines.agents.agent", "pipelines.session"):
        monkeypatch.setattr(f"rlpipe.{module}.evaluate", record)
    return made


def test_evaluate_a_run_or_a_checkpoint_in_it(capsys):
    run(["train", "ppo", *PPO, "--run-dir", "here", "--checkpoint-every", "256", "--json", "--quiet"])
    trained = json.loads(capsys.readouterr().out)
    first, last = (
        str(Path("here/checkpoints").resolve() / name) for name in ("frames-000000000256", "frames-000000000512")
    )
    for argument, checkpoint in (("here", last), (last, last), (first, first)):
        assert run(["evaluate", argument, "--episodes", "3", "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["checkpoint"] == checkpoint
        # the run's own final evaluation has the same seed, and so the same episodes
        assert checkpoint == first or summary["evaluation"] == trained["evaluation"]


def test_evaluate_options(capsys, evaluations):
    run(["train", "ppo", *PPO, "--run-dir", "here", "--seed", "3", "--quiet"])
    seeds = [Seeds(3).integer(name) for name in ("evaluation", "evaluation", "final evaluation")]
    assert [options["seed"] for options in evaluations] == seeds
    assert Seeds(3).integer("environments") not in seeds
    capsys.readouterr()
    evaluations.clear()
    run(["evaluate", "here", "--episodes", "2", "--seed", "5", "--stochastic"])
    run(["evaluate", "here"])
    assert evaluations == [
        {"episodes": 2, "seed": 5, "stochastic": True, "transforms": (), "num_envs": 100},
        {"episodes": 100, "seed": seeds[-1], "stochastic": False, "transforms": (), "num_envs": 100},
    ]
    assert "over 2 sampled episodes" in capsys.readouterr().out


def test_recipes_and_help(capsys):
    assert run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(RECIPES)
    for arguments in ([], ["--help"], ["-h"], ["train"], ["train", "--help"], ["recipes", "--help"], ["evaluate"]):
        assert run(arguments) == 0
        assert "usage: rlpipe" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"rlpipe {rlpipe.__version__}\n"


@pytest.mark.parametrize("command", [["train", "ppo"], ["evaluate"]])
def test_help_of_a_command_lists_its_options(capsys, command):
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    options = ["--env-id", "--num-envs", "--run-dir", "--json", "--quiet", "--clip", "--stop-at-return"]
    for option in options if command[0] == "train" else ["--episodes", "--seed", "--stochastic", "--json"]:
        assert option in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no command is called 'trian'; did you mean train?"),
        (["train", "ppoo"], "no recipe is called 'ppoo'; did you mean ppo?"),
        (["train", "--seed", "3"], "the recipe comes before the options"),
        (["train", "ppo", "--num-env", "3"], "no option is called --num-env; it is --num-envs here"),
        (["train", "ppo", "--zzz"], "no option is called --zzz; see --help"),
        (["train", "ppo", "stray"], "error: 'stray' belongs to no option; see --help\n"),
        (["train", "ppo", "--gif", "True"], "error: --gif takes no value, got 'True'\n"),
        (["train", "ppo", "--seed", "3", "4"], "error: '4' belongs to no option; see --help\n"),
        (["train", "ppo", "--total-frames", "1.5e0"], "--total-frames is '1.5e0'; expected a whole number\n"),
        (["train", "ppo", "--total-frames", "1.5"], "--total-frames is '1.5'; expected a whole number\n"),
        (["train", "ppo", "--num-envs"], "error: Missing value for argument '--num-envs'."),
        (["train", "ppo", "--num-envs", "many"], "error: --num-envs is 'many'; expected a whole number"),
        (["train", "ppo", "--max-grad-norm", "many"], "--max-grad-norm is 'many'; expected a number or none\n"),
        (["train", "ppo", "--num-envs", "0"], "num_envs is 0; allowed is 1 or more"),
        (["train", "ppo", "--total-frames", "-7"], "total_frames is -7; allowed is 1 or more"),
        (["train", "ppo", "--total-frames=-7"], "total_frames is -7; allowed is 1 or more"),
        (["train", "ppo", "--minibatch-size", "5000"], "minibatch_size is 5000; allowed is at most 1024"),
        (["train", "ppo", "--eval-every", "0"], "eval_every is 0; allowed is 1 or more"),
        (["train", "ppo", "--hidden", "--total-frames", "2048"], "hidden"),
        (["train", "ppo", ""], "one of the options is empty"),
        (["train", "ppo", "--no-json"], "no option is called --no-json; did you mean --json?"),
        (["train", "ppo", "--run-dir", "x" * 300], "cannot be made"),
        (["train", "dqn", "--total-frames", "500"], "warmup_frames is 1000; allowed is at most 500"),
        (["evaluate", "nothing-here", "--seed", "-1"], "seed is -1; allowed is 0 or more"),
        (["evaluate", "nothing-here", "--seed", str(2**70)], "allowed is 0 or more, below 2^63"),
        (["train", "ppo", "--lr", "nan"], "lr is nan; expected a finite number"),
        (["train", "ppo", "--backend", "threads"], "error: --backend is 'threads'; allowed are async, auto, "),
        (["export", "nothing-here", "--format", "tf"], "--format is 'tf'; allowed are onnx, safetensors, torch\n"),
        (["train", "ppo", "--env-id", "CartPool-v1"], "did you mean CartPole-v1"),
        (["train", "dqn", "--env-id", "Pendulum-v1"], "actions are a Box; DQN needs Discrete actions"),
        (["evaluate", "nothing-here"], "nothing-here is no run"),
        (["evaluate", "nothing-here", "--episodes", "0"], "episodes is 0; allowed is 1 or more"),
        (["evaluate", "--episodes", "3"], "the run comes before the options"),
        (["recipes", "ppo"], "takes no arguments"),
    ],
)
def test_bad_input(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_whole_numbers_may_have_an_exponent(capsys):
    assert (
        run(["train", "ppo", "--total-frames", "1.5e5", "--eval-every", "2e4", "--lr", "1e-3", "--print-config"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["total_frames"], found["eval_every"], found["lr"]) == (150_000, 20_000, 1e-3)


@pytest.mark.parametrize(("closed", "arguments", "code"), [("2>&-", "train ppo --lr x", 2), (">&-", "recipes", 0)])
def test_a_stream_that_the_shell_has_closed(closed, arguments, code):
    words = ["sh", "-c", f'"$0" -m rlpipe.scripts.main {arguments} {closed}', sys.executable]
    assert subprocess.run(words, check=False, capture_output=True).returncode == code


def test_cuda_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device is 'cuda', but PyTorch finds no CUDA device" in refused(capsys, "train", "ppo", "--device", "cuda")


def test_a_run_folder_that_exists_is_left_alone(capsys):
    Path("here").mkdir()
    Path("here/precious.txt").write_text("mine")
    assert "here exists already; nothing was overwritten" in refused(capsys, "train", "ppo", "--run-dir", "here")


def test_a_run_folder_that_cannot_be_made(capsys):
    Path("file").write_text("mine")
    assert "run-dir file/below cannot be made" in refused(capsys, "train", "ppo", *PPO, "--run-dir", "file/below")


def test_damaged_and_foreign_checkpoints(capsys):
    for recipe, options in (("ppo", PPO), ("dqn", DQN)):
        run(["train", recipe, *options, "--run-dir", recipe, "--quiet"])
    capsys.readouterr()
    files = sorted(Path("ppo/checkpoints").glob("frames-*/policy.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-4])
    line = refused(capsys, "evaluate", "ppo")
    assert "component 'policy' is damaged" in line
    assert files[0].name in line
    described = json.loads(Path("dqn/config.json").read_text())
    described["config"]["hidden"] = [8, 8]
    Path("dqn/config.json").write_text(json.dumps(described))
    assert "belongs to another run: its algorithm or config differs" in refused(capsys, "evaluate", "dqn")
    described["config"]["hidden"] = [8, -8]
    Path("dqn/config.json").write_text(json.dumps(described))
    assert "hidden is -8" in refused(capsys, "evaluate", "dqn")


def test_divergence_ends_with_one_line_and_exit_code_1(capsys):
    assert run(["train", "ppo", *PPO, "--lr", "1e30", "--max-grad-norm", "None", "--quiet", "--run-dir", "here"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("rlpipe: error: training stopped at frame ")
    assert captured.err.count("\n") == 1
    assert "is nan" in captured.err or "is inf" in captured.err
    assert Path("here/metrics.jsonl").exists()


def test_interrupt_ends_with_one_line_and_exit_code_130(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlpipe.pipelines.session.run_loop", interrupt)
    assert run(["train", "ppo", *PPO, "--quiet"]) == 130
    assert "interrupted" in capsys.readouterr().err


def python(*arguments, cwd=None):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_none_may_be_written_small(capsys):
    assert run(["train", "ppo", *PPO, "--max-grad-norm", "none", "--json", "--quiet"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["run"])
    assert json.loads((folder / "config.json").read_text())["config"]["max_grad_norm"] is None


def test_a_full_disk_under_stdout_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rlpipe", "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "rlpipe: error: stdout cannot be written: No space left on device\n")


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m rlpipe recipes | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ppo ")
    assert done.stderr == ""
    command = Python("-m", "rlpipe", "train", "ppo", "--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.close()
    assert command.communicate() == (None, "")
    assert command.returncode == 0


@pytest.mark.parametrize("command", [[str(ROOT / "scripts" / "train.py"), "ppoo"], ["-m", "rlpipe", "train", "ppoo"]])
def test_scripts_and_module_run_the_same_command(command):
    done = python(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rlpipe: error: no recipe is called 'ppoo'; did you mean ppo?\n"


def test_a_script_trains():
    done = python(str(ROOT / "scripts" / "train.py"), "ppo", *PPO, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["frames"] == 512


def test_front_door():
    for name in rlpipe.__all__:
        assert getattr(rlpipe, name) is not None
    with pytest.raises(AttributeError, match="module 'rlpipe' has no attribute 'nothing'"):
        _ = rlpipe.nothing


@pytest.mark.parametrize(
    ("recipe", "env_id"),
    [
        ("ppo", "Acrobot-v1"),
        ("ppo", "Pendulum-v1"),
        ("ppo", "MountainCarContinuous-v0"),
        ("ppo", "FrozenLake-v1"),
        ("dqn", "Acrobot-v1"),
        ("dqn", "FrozenLake-v1"),
    ],
)
def test_other_environments_with_only_options_changed(capsys, recipe, env_id):
    options = PPO if recipe == "ppo" else DQN
    assert run(["train", recipe, *options, "--env-id", env_id, "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["env_id"], summary["evaluation"]["episodes"]) == (env_id, 3)


def test_environments_in_processes(capsys):
    options = ["--backend", "async", "--env-id", "Acrobot-v1", "--num-envs", "2", "--rollout-steps", "64"]
    assert run(["train", "ppo", *PPO, *options, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 512
