"""Hostile run folders: no file in one, and no link, makes a command run code or touch what lies elsewhere."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hostile import COMMANDS, MARK, checkpoints, logged, make_run, outside, payloads, seal

from rlpipe.scripts.main import run

EXPRESSION = f"__import__('os').system('touch {MARK}')"
EVIL = f"""
open("{MARK}", "w").close()
import gymnasium
gymnasium.registry.pop("Evil-v0", None)
gymnasium.register("Evil-v0", "gymnasium.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=20)
"""
PAYLOADS = payloads()
LOADING = ["evaluate", "export", "render", "resume", "start-from"]


@pytest.fixture(autouse=True)
def _no_hang():
    def give_up(*_):
        raise TimeoutError("this test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the run, as `run` in the working directory, beside a module that nobody may import."""
    monkeypatch.chdir(tmp_path)
    # before the path: Python remembers what is in a folder
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(made, "run")
    yield Path("run")
    sys.modules.pop("evil", None)


@pytest.fixture
def tell(folder, capsys):
    """Runs a command; its exit code and its error, which is one line. Nothing outside the run has changed."""

    def call(command):
        shutil.rmtree("new", ignore_errors=True)
        Path("new").mkdir()
        before = outside(Path.cwd())
        arguments = COMMANDS[command] if isinstance(command, str) else command
        code, errors = run(arguments), capsys.readouterr().err
        assert outside(Path.cwd()) == before, arguments
        assert not Path(MARK).exists(), arguments
        assert "evil" not in sys.modules
        told = [line for line in errors.splitlines() if not line.startswith("rlpipe: note: ")]
        assert len(told) == (code != 0), errors
        assert all(line.startswith("rlpipe: error: ") and line.isprintable() for line in told)
        return code, " ".join(told)

    return call


def refused(tell, folder, commands=tuple(COMMANDS), words=""):
    """Each command ends with exit code 2, and leaves what was logged as it was."""
    before = logged(folder)
    for command in commands:
        code, error = tell(command)
        assert (code, words in error) == (2, True), (command, error)
    assert logged(folder) == before


def test_the_commands_work_on_the_run_as_it_is(folder, tell):
    assert [tell(command) for command in COMMANDS] == [(0, "")] * len(COMMANDS)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_in_the_config(folder, tell, payload):
    (folder / "config.json").write_bytes(PAYLOADS[payload])
    refused(tell, folder)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_in_the_versions_are_as_good_as_none(folder, tell, payload):
    (folder / "versions.json").write_bytes(PAYLOADS[payload])
    assert tell("resume") == (0, "")


@pytest.mark.parametrize("file", ["metrics", "evaluations"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_in_the_journals(folder, tell, payload, file):
    (folder / f"{file}.jsonl").write_bytes(PAYLOADS[payload])
    refused(tell, folder, ["resume", "table"])
    assert tell("evaluate") == (0, "")


@pytest.mark.parametrize("file", ["metrics", "evaluations"])
def test_payloads_in_the_journals_of_the_right_length(folder, tell, file):
    path = folder / f"{file}.jsonl"
    path.write_bytes((PAYLOADS["pickle"] * 1_000)[: path.stat().st_size])
    refused(tell, folder, ["resume"], f"{file}.jsonl is damaged")
    path.write_bytes(path.read_bytes()[:-1] + b"\n")
    refused(tell, folder, ["resume"], f"{file}.jsonl is damaged")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_in_the_manifest(folder, tell, payload):
    for checkpoint in checkpoints(folder):
        (checkpoint / "checkpoint.json").write_bytes(PAYLOADS[payload])
    refused(tell, folder, LOADING, "checkpoint.json")


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_in_the_tensors(folder, tell, payload, sealed):
    for checkpoint in checkpoints(folder):
        for file in checkpoint.glob("*.safetensors"):
            file.write_bytes(PAYLOADS[payload])
        if sealed:
            seal(checkpoint)
    refused(tell, folder, LOADING, "does not fit" if sealed else "is damaged")


def test_code_beside_the_files_stays_there(folder, tell):
    for where in (folder, folder / "checkpoints"):
        for name in ("__init__.py", "sitecustomize.py", "conftest.py", "evil.so"):
            (where / name).write_text(EVIL)
    assert [tell(command)[0] for command in COMMANDS] == [0] * len(COMMANDS)


def change_config(folder, **changes):
    file = folder / "config.json"
    described = json.loads(file.read_text())
    for key, value in changes.items():
        (described if key in described else described["config"])[key] = value
    file.write_text(json.dumps(described))


def test_expressions_in_the_config_are_texts(folder, tell):
    text = (folder / "config.json").read_text()
    for name in json.loads(text)["config"]:
        change_config(folder, **{name: EXPRESSION})
        code, error = tell("evaluate")
        assert code == 2, (name, error)
        (folder / "config.json").write_text(text)
    change_config(folder, **dict.fromkeys(json.loads(text)["config"], EXPRESSION))
    refused(tell, folder, LOADING)
    assert tell("table")[0] == 2


@pytest.mark.parametrize("field", ["env_id", "eval_env_id"])
def test_a_module_in_the_config_is_not_imported(folder, tell, field):
    change_config(folder, **{field: "evil:Evil-v0"})
    refused(tell, folder, LOADING[:-1], "'evil'")
    # makes no environment of the run that it starts from
    refused(tell, folder, ["start-from"], "belongs to another run")
    refused(tell, folder, [["evaluate", "run", "--trust-module", "ev"]], "--trust-module evil")
    assert tell("table") == (0, "")
    # one that is twice there counts as it is then used
    config = (folder / "config.json").read_text().replace('"config": {', '"config": {"env_id": "CartPole-v1", ', 1)
    (folder / "config.json").write_text(config)
    refused(tell, folder, ["evaluate"], "'evil'")


def test_a_module_that_is_trusted_is_imported(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fair.py").write_text(EVIL.replace("Evil", "Fair").replace(MARK, "fair"))
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--env-id", "fair:Fair-v0", *COMMANDS["start-from"][2:-4]]
    assert run(["train", "dqn", *options, "--run-dir", "run"]) == 0
    for command in (COMMANDS["evaluate"], COMMANDS["resume"]):
        sys.modules.pop("fair")
        Path("fair").unlink()
        assert run(command) == 2
        assert not Path("fair").exists()
        assert run([*command, "--trust-module", "fair"]) == 0
        assert Path("fair").exists()
    # what the user names is trusted
    sys.modules.pop("fair")
    assert run(["train", "dqn", *options, "--start-from", "run", "--run-dir", "new"]) == 0


@pytest.mark.parametrize("field", ["algorithm", "recipe"])
@pytest.mark.parametrize(
    "name", ["../../evil", "os", "evil", "\x1b]0;evil\x07", "a\nb", "", 7, None, ["dqn"], "$\\frac$"]
)
def test_names_in_the_config(folder, tell, field, name):
    change_config(folder, **{field: name})
    before = sorted(Path.cwd().rglob("*"))
    refusing = field == "algorithm" or not isinstance(name, str) or not name.isprintable()
    for command in ("evaluate", "export", "render", "resume"):
        assert tell(command)[0] == 2 * refusing
    assert run(["table", "run", "--plot", "plot.png"]) == 0
    made = ("run", "new", "plot.png")
    ours = {path for path in Path.cwd().rglob("*") if path.relative_to(Path.cwd()).parts[0] not in made}
    assert ours <= set(before)


def test_a_table_shows_no_control_characters(folder, tell, capsys):
    change_config(folder, recipe="\x1b[31mred", env_id="a\x07b")
    assert run(["table", "run"]) == 0
    printed = capsys.readouterr()
    assert "?[31mred" in printed.out
    assert all(line.isprintable() for line in (printed.out + printed.err).splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"config":' * 100_000,
        "NaN",
        "1" * 10_000,
        '{"recipe": "dqn", "algorithm": "dqn", "config": {}, "config": []}',
        '"\\ud800"',
    ],
)
def test_odd_json_in_the_config(folder, tell, text):
    (folder / "config.json").write_text(text)
    refused(tell, folder)


@pytest.mark.parametrize("value", [10**400, 1e400, -1, 10**18, float("nan"), [[[]]], {"a": 1}, True, ""])
@pytest.mark.parametrize("field", ["seed", "total_frames", "num_envs", "hidden"])
def test_odd_values_in_the_config(folder, tell, field, value):
    change_config(folder, **{field: value})
    if (field, value) in [("seed", 10**18), ("total_frames", 10**18)]:
        assert tell("evaluate")[0] == 2 * (field == "seed")
    else:
        # whose name is made of the recipe and the seed
        refused(tell, folder, [["export", "run"], "evaluate", "export", "render", "resume"])
    assert {tell("table")[0], tell("report")[0]} <= {0, 2}


def test_a_large_config_is_not_read(folder, tell):
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(1 << 40)
    refused(tell, folder)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"frames": 1e400, "seconds": 1, "final": true, "returns": [1.0]}',
        f'{{"frames": {10**400}, "seconds": 1, "final": true, "returns": [1.0]}}',
        '{"frames": 64, "seconds": 1, "final": true, "returns": ["1"]}',
        '{"frames": 64, "seconds": 1, "final": true, "returns": []}',
        '{"frames": 64, "seconds": 1, "final": true, "returns": [NaN]}',
        '{"frames": "64", "seconds": "a", "final": true, "returns": 1}',
        "[1]",
        "3",
        "null",
    ],
)
@pytest.mark.parametrize("file", ["metrics", "evaluations"])
def test_odd_lines_in_the_journals(folder, tell, file, line):
    path = folder / f"{file}.jsonl"
    old = path.read_text()
    path.write_text(old + line + "\n")
    assert {tell("table")[0], tell("report")[0]} <= {0, 2}
    path.write_text(line + "\n" + old)
    refused(tell, folder, ["resume"])


LINKED = ["config.json", "metrics.jsonl", "evaluations.jsonl", "versions.json", "lock", "tensorboard", "checkpoints"]


@pytest.mark.parametrize("name", LINKED)
def test_links_in_the_run(folder, tell, name):
    shutil.move(folder / name, name)
    (folder / name).symlink_to(Path(name).resolve())
    refused(tell, folder, ["resume"], "is not one that" if name == "config.json" else f"{name} is a symbolic link")
    code, error = tell("evaluate")
    assert code == 2 * (name == "config.json"), error
    assert {tell("table")[0], tell("report")[0]} <= {0, 2}


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_journals_with_a_second_name(folder, tell, name):
    os.link(folder / name, "mine")
    refused(tell, folder, ["resume"], "is a link to another file")


@pytest.mark.parametrize("name", ["curve.png", "config.json", "versions.json", "resumes.jsonl", "agent.gif"])
def test_other_files_with_a_second_name_are_not_written_through(folder, tell, name):
    if (folder / name).exists():
        os.link(folder / name, "mine")
    else:
        Path("mine").write_text("mine")
        os.link("mine", folder / name)
    # `tell` looks whether `mine` is as before
    assert tell("resume")[0] == 2 * (name == "resumes.jsonl")


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "evaluations.jsonl", "config.json", "lock", "versions.json", "curve.png"]
)
def test_pipes_in_the_run(folder, tell, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    codes = [tell(command)[0] for command in ("resume", "evaluate", "export", "table", "report")]
    assert codes[0] == 2
    assert set(codes) <= {0, 2}


@pytest.mark.parametrize("kind", ["link", "zero", "pipe", "folder"])
@pytest.mark.parametrize("name", ["checkpoint.json", "policy.safetensors", "."])
def test_links_and_pipes_in_checkpoints(folder, tell, name, kind):
    for index, checkpoint in enumerate(checkpoints(folder)):
        file = checkpoint / name
        shutil.move(file, f"mine{index}")
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        else:
            file.symlink_to("/dev/zero" if kind == "zero" else Path(f"mine{index}").resolve())
    refused(tell, folder, LOADING)


def test_a_link_in_a_circle(folder, tell):
    Path("circle").symlink_to("circle")
    assert [tell([command, "circle"])[0] for command in ("evaluate", "export", "render", "resume", "table")] == [2] * 5
