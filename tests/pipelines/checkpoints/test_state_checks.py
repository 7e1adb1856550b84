"""States that are well packed, and nonsense: refused by name before the run goes on, and without much memory."""

import json
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hostile import COMMANDS, change_tensors, checkpoints, logged, make_run, put, seal

from rlpipe.scripts.main import run

HUGE = 10**12
SMALL = ["--num-envs", "2", "--rollout-steps", "8", "--final-eval-episodes", "1", "--quiet"]
RECIPES = {
    "dqn": (),
    "reinforce": ("--num-envs", "2", "--rollout-steps", "16", "--max-episode-steps", "20", "--hidden", "8", *SMALL[4:]),
    "sarsa/maze": SMALL,
    "policy-gradient/maze": SMALL,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run of each recipe, made when it is first asked for."""
    here = tmp_path_factory.mktemp("made")

    def get(recipe):
        folder = here / recipe.replace("/", "-")
        return folder if folder.exists() else make_run(folder, recipe, *RECIPES[recipe])

    return get


@pytest.fixture
def copy(made, tmp_path, monkeypatch):
    """Copies a run to `run`, with its newest checkpoint alone; gives the two."""
    monkeypatch.chdir(tmp_path)

    def get(recipe="dqn"):
        shutil.copytree(made(recipe), "run")
        oldest, newest = checkpoints(Path("run"))
        shutil.rmtree(oldest)
        return Path("run"), newest

    return get


def refusals(folder, capsys, commands=("resume",)):
    """What each command says, in one line, with exit code 2; what was logged stays."""
    before, peak, told = logged(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for command in commands:
        code = run([*COMMANDS[command][:-1], "96"] if command == "resume" else COMMANDS[command])
        errors = capsys.readouterr().err
        assert (code, errors.count("\n")) == (2, 1), errors
        told.append(errors)
    assert logged(folder) == before
    # KiB on Linux
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + 500_000
    return " ".join(told)


NONSENSE = [
    ("dqn", "random", "", HUGE),
    ("dqn", "random", "", []),
    ("dqn", "random", "replay", HUGE),
    ("dqn", "random", "replay", {"tensor": "nothing"}),
    ("dqn", "random", "replay", {"tensor": HUGE}),
    ("dqn", "random", "replay", {"code": "os.system"}),
    ("dqn", "random", "replay", {}),
    ("dqn", "policy", "", None),
    ("dqn", "policy", "", {"dict": []}),
    ("dqn", "target", "calls", "7"),
    ("dqn", "target", "calls", -1),
    ("dqn", "target", "", {"dict": []}),
    ("dqn", "schedule", "last_epoch", "7"),
    ("dqn", "schedule", "last_epoch", None),
    ("dqn", "schedule", "base_lrs", 1),
    ("dqn", "schedule", "_step_count", "7"),
    ("dqn", "schedule", "", {"dict": [["step", 1], ["optimizer", None]]}),
    ("dqn", "optimizer", "param_groups", []),
    ("dqn", "optimizer", "param_groups", HUGE),
    ("dqn", "optimizer", "state", {"dict": [[HUGE, {"dict": []}]]}),
    ("dqn", "optimizer", "state", {"dict": [[0, 3]]}),
    ("dqn", "optimizer", "state/0/step", 3),
    ("dqn", "optimizer", "state/0/exp_avg", None),
    ("dqn", "optimizer", "param_groups/0/betas", {"tuple": ["a", 1]}),
    ("dqn", "optimizer", "param_groups/0/betas", {"tuple": []}),
    ("dqn", "optimizer", "param_groups/0/lr", "fast"),
    ("dqn", "optimizer", "param_groups/0/fused", "yes"),
    ("dqn", "optimizer", "param_groups/0/params", [0, 0]),
    ("dqn", "replay", "held", HUGE),
    ("dqn", "replay", "held", {"dict": []}),
    ("dqn", "replay", "held/action", HUGE),
    ("dqn", "replay", "writer/_cursor", HUGE),
    ("dqn", "replay", "writer/_cursor", -1),
    ("dqn", "replay", "writer/_cursor", "0"),
    ("dqn", "replay", "writer", {"dict": [["_cursor", 0], ["_storage", 1]]}),
    ("dqn", "environments", "frames", "64"),
    ("dqn", "environments", "frames", -64),
    ("dqn", "environments", "iterations", None),
    ("dqn", "environments", "kind", "synchronised"),
    ("dqn", "environments", "envs/envs/random/state", 3),
    ("dqn", "environments", "envs/envs/random/bit_generator", "os"),
    ("dqn", "environments", "envs/envs/state", {"dict": []}),
    ("dqn", "environments", "envs/root", {"dict": []}),
    ("dqn", "environments", "envs/restarted", HUGE),
    ("dqn", "progress", "episodes", "many"),
    ("dqn", "progress", "frames", None),
    ("dqn", "progress", "", {"dict": [["state_dict", 1]]}),
    ("dqn", "line", "returns", ["a"]),
    ("dqn", "line", "scalars", [3]),
    ("dqn", "line", "lengths", HUGE),
    ("dqn", "stopping", "episodes", "many"),
    ("dqn", "stopping", "recent", HUGE),
    ("dqn", "stopping", "recent", ["a"]),
    ("dqn", "stopping", "", {"dict": [["recent", []], ["after_batch", 1]]}),
    ("reinforce", "episodes", "unfinished", HUGE),
    ("reinforce", "episodes", "unfinished", [None, None, None]),
    ("reinforce", "episodes", "unfinished", [HUGE, None]),
    ("reinforce", "episodes", "unfinished", [{"dict": []}, None]),
    ("reinforce", "episodes", "unfinished/1/action", HUGE),
    ("sarsa/maze", "rule", "state", HUGE),
    ("sarsa/maze", "rule", "", {"dict": [["state", HUGE]]}),
    ("sarsa/maze", "change", "last", HUGE),
    ("sarsa/maze", "environments", "envs/envs/each", []),
    ("sarsa/maze", "environments", "envs/envs/each/0/state/cell", HUGE),
    ("sarsa/maze", "environments", "envs/envs/each/0/state/cell", "a"),
    ("policy-gradient/maze", "change", "allowed", None),
]


@pytest.mark.parametrize(("recipe", "component", "path", "value"), NONSENSE)
def test_nonsense_is_refused_by_name(copy, capsys, recipe, component, path, value):
    folder, newest = copy(recipe)
    seal(newest, put(component, path, value))
    assert f"component '{component}' does not fit: " in refusals(folder, capsys)


def all_of(tensor):
    return lambda tensors: tensors.update({name: tensor.clone() for name in tensors})


def change(names, make):
    def apply(tensors):
        found = [name for name in tensors if any(each in name for each in names)]
        assert found, sorted(tensors)
        tensors.update({name: make(tensors[name]).contiguous() for name in found})

    return apply


SHAPES = {
    "policy": ("dqn", all_of(torch.zeros(3, 3))),
    "loss": ("dqn", all_of(torch.zeros(0))),
    "random": ("dqn", all_of(torch.zeros(5, dtype=torch.uint8))),
    "optimizer": ("dqn", change(["exp_avg"], lambda each: torch.zeros(7))),
    "optimizer, step": ("dqn", change(["step"], lambda each: torch.zeros(2))),
    "replay, in type": ("dqn", change(["observation"], lambda each: each.double())),
    "replay": ("dqn", change(["observation"], lambda each: each[:, :2])),
    "replay, action": ("dqn", change(["action"], lambda each: each + 10)),
    "replay, lengths": ("dqn", change(["action"], lambda each: each[:5])),
    "replay, too many": ("dqn", change([""], lambda each: torch.cat([each] * 9))),
    "environments": ("dqn", change(["envs/envs/state"], lambda each: torch.cat([each, each], -1))),
    "environments, root": ("dqn", change(["root"], lambda each: each[:1])),
    "environments, restarted": ("dqn", change(["restarted"], lambda each: each[:1])),
    "environments, in type": ("dqn", change(["envs/envs/state"], lambda each: each.long())),
    "episodes": ("reinforce", change(["observation"], lambda each: each[:, :1])),
    "episodes, action": ("reinforce", change(["action"], lambda each: each - 9)),
    "rule": ("sarsa/maze", change(["state"], lambda each: each + 10**9)),
    "rule, row": ("sarsa/maze", change(["row"], lambda each: each + 2)),
    "rule, action": ("sarsa/maze", change(["action"], lambda each: each - 5)),
    "change": ("sarsa/maze", change(["last"], lambda each: each[:2])),
}


@pytest.mark.parametrize("case", SHAPES)
def test_tensors_of_other_shapes_types_and_ranges(copy, capsys, case):
    recipe, apply = SHAPES[case]
    folder, newest = copy(recipe)
    component = case.partition(",")[0]
    change_tensors(newest, component, apply)
    assert f"component '{component}' does not fit: " in refusals(folder, capsys)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lengths", None),
        ("lengths", {"metrics": -1, "evaluations": 0}),
        ("lengths", {"metrics": "0", "evaluations": 0}),
        ("lengths", {"metrics": 0}),
        ("lengths", {"metrics": 10**30, "evaluations": 0}),
        ("frames", "64"),
        ("frames", 10**30),
        ("frames", None),
        ("run", None),
        ("run", {"algorithm": "ppo", "config": {}}),
    ],
)
def test_nonsense_in_the_metadata(copy, capsys, key, value):
    folder, newest = copy()
    seal(newest, lambda content: content["metadata"].update({key: value}))
    refusals(folder, capsys)


@pytest.mark.parametrize("score", ["best", [1], 1e400, 10**400, True])
def test_nonsense_as_a_score(copy, capsys, score):
    _, newest = copy()
    seal(newest, lambda content: content["metadata"].update(score=score))
    assert run(COMMANDS["resume"]) == 0


@pytest.mark.parametrize("name", ["../../mine", "/etc/passwd", "policy/../loss", "evil", "", "Policy", "a\x1b[31m"])
def test_odd_names_in_the_manifest(copy, capsys, name):
    folder, newest = copy()
    Path("mine.safetensors").write_bytes((newest / "policy.safetensors").read_bytes())
    text = (newest / "checkpoint.json").read_text()
    seal(newest, lambda content: content["components"].update({name: content["components"].pop("policy")}))
    assert "has no component 'policy'" in refusals(folder, capsys, ["resume", "evaluate"])
    (newest / "checkpoint.json").write_text(text)
    for file in (name, f"{name}.safetensors"):
        seal(newest, lambda content, file=file: content["files"].update({file: "0" * 32}))
        refusals(folder, capsys, ["resume", "evaluate"])
        (newest / "checkpoint.json").write_text(text)


def test_deep_and_large_states(copy, capsys):
    folder, newest = copy()
    text = (newest / "checkpoint.json").read_text()
    deep = []
    for _ in range(900):
        deep = [deep]
    seal(newest, put("random", "", deep))
    refusals(folder, capsys)
    for odd in (text.replace('{"dict"', "[" * 100_000 + '{"dict"', 1), "[" * 10_000_000):
        (newest / "checkpoint.json").write_text(odd)
        assert "checkpoint.json" in refusals(folder, capsys, ["resume", "evaluate"])
    with (newest / "checkpoint.json").open("r+b") as stream:
        stream.truncate(1 << 40)
    assert "cannot be read: it has 1,099,511,627,776 bytes" in refusals(folder, capsys, ["resume", "evaluate"])


def header(entries, length=None, data=b"\0" * 64):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(4,), start=0, end=16, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HEADERS = {
    "claims 2**60": header({"a": entry()}, 2**60),
    "claims 2**64 - 1": header({"a": entry()}, 2**64 - 1),
    "longer than the file": header({"a": entry()}, 1_000),
    "a tensor of terabytes": header({"a": entry((2**40,), 0, 2**42)}),
    "an overflow": header({"a": entry((2**40, 2**40), 0, 16)}),
    "negative": header({"a": entry((-4,))}),
    "overlapping": header({"a": entry(), "b": entry()}),
    "a hole": header({"a": entry(), "b": entry((4,), 32, 48)}),
    "backwards": header({"a": entry((4,), 16, 0)}),
    "a type that is none": header({"a": entry(dtype="object")}),
    "twice": header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":[]}'),
    "no JSON": header(b"\x80\x04\x95" + b"a" * 50),
    "deep": header(b'{"a":' * 50_000),
    "too short": b"\0\0\0",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_odd_headers_of_tensors(copy, capsys, kind):
    folder, newest = copy()
    (newest / "policy.safetensors").write_bytes(HEADERS[kind])
    seal(newest)
    told = refusals(folder, capsys, ["resume", "evaluate", "start-from"])
    assert told.count("component 'policy' does not fit: ") == 3
