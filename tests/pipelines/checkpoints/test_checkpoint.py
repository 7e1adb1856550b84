"""The checkpoint format: what goes in comes out, and what was changed by a bit, a cut or a hand is refused."""

import json
import math
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import COMMANDS, SIZES, make_run, seal
from tensordict import TensorDict

from rlpipe.errors import CheckpointError, TrainingError
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.checkpoints import checkpoint
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from rlpipe.pipelines.checkpoints.encoding import decode, encode
from rlpipe.pipelines.checkpoints.names import checkpoints, newest_checkpoint
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.scripts.main import run


class Part:
    """Holds any state."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def same(one, other):
    """Whether two states are of the same types, shapes and numbers, NaN included."""
    if isinstance(one, torch.Tensor):
        equal = isinstance(other, torch.Tensor) and (one.dtype, one.shape) == (other.dtype, other.shape)
        return equal and (torch.equal(one, other) or torch.equal(one.isnan(), other.isnan()))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


def there_and_back(state, path):
    save_checkpoint(path, {"part": Part(state)}, {})
    part = Part()
    load_checkpoint(path, {"part": part})
    return part.state


BASE = torch.arange(12.0)
STATES = {
    "plain": {
        "none": None,
        "true": True,
        "text": 'ü\n"\\\x00',
        "zero": 0,
        "minus": -0.0,
        "empty": "",
        "e": {},
        "l": [],
    },
    "floats": [math.nan, math.inf, -math.inf, 5e-324, 0.1, 1e308, 1.0],
    "integers": [2**127 - 1, -(2**200), 10**300, np.random.PCG64(3).state["state"]["state"]],
    "keys": {1: "a", -5: "b", "1": "c", "": "d", "a/b": torch.ones(1), "a": {"b": torch.zeros(2)}},
    "nested": ((1, [2, (3, {"x": (torch.ones(2), [np.zeros(3)])})]), (), ((),), {"dict": [], "tensor": "x"}),
    "generator": np.random.default_rng(7).bit_generator.state,
    "mersenne": np.random.Generator(np.random.MT19937(7)).bit_generator.state,
    "torch generator": torch.Generator().manual_seed(1).get_state(),
    "devices": [torch.device("cpu"), torch.device("cuda", 1)],
    "scalars and empty": [torch.tensor(3.5), torch.zeros(0), torch.zeros(2, 0, 3), np.zeros(()), np.zeros((0, 2))],
    "read-only": np.broadcast_to(np.arange(3), (2, 3)),
    "shared memory": [BASE, BASE[:4], BASE[4:8], BASE.view(3, 4), {"again": BASE}],
    "not contiguous": [BASE.view(3, 4).t(), BASE[::2], torch.ones(1).expand(4), np.arange(12).reshape(3, 4).T[::2]],
    "not finite": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    **{
        str(dtype): torch.tensor([0, 1, 1]).to(dtype)
        for dtype in (
            *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        )
    },
    **{
        f"array of {dtype}": np.array([0, 1, 1]).astype(dtype)
        for dtype in ("bool", "uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
    },
}


@pytest.mark.parametrize("name", STATES)
def test_there_and_back(name, tmp_path):
    state = STATES[name]
    assert same(there_and_back(state, tmp_path / "checkpoint"), state)


def test_what_comes_back_as_something_near(tmp_path):
    near = [np.float32(0.5), np.int64(3), np.bool_(True), OrderedDict(a=1), TensorDict(a=BASE, b={"c": BASE > 3})]
    back = there_and_back(near, tmp_path / "checkpoint")
    assert same(back, [0.5, 3, True, {"a": 1}, {"a": BASE, "b": {"c": BASE > 3}}])


def test_a_gradient_is_not_kept(tmp_path):
    weight = torch.nn.Parameter(BASE.clone())
    assert same(there_and_back({"weight": weight}, tmp_path / "checkpoint"), {"weight": BASE})


def test_names_that_would_clash_do_not(tmp_path):
    state = {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, "a/b#2": torch.full((1,), 2.0)}
    assert same(there_and_back(state, tmp_path / "checkpoint"), state)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": [1, {"b": object()}]}, "^a/1/b is a object, which a checkpoint cannot hold"),
        ({"a": {1, 2}}, "^a is a set,"),
        ({"a": len}, "^a is a builtin_function_or_method,"),
        ({"a": b"bytes"}, "^a is a bytes,"),
        ({"a": 1j}, "^a is a complex,"),
        ({"a": {(1, 2): 3}}, r"^a has the key \(1, 2\); expected text or a whole number"),
        ({True: 3}, "^the state has the key True;"),
        (object(), "^the state is a object"),
    ],
)
def test_what_is_no_data_is_refused_with_its_place(state, words):
    with pytest.raises(TypeError, match=words):
        encode(state, {})


@pytest.mark.parametrize(
    "value", [{}, {"a": 1, "b": 2}, {"object": "os.system"}, {"dict": [[[1], 2]]}, {"dict": [[None, 2]]}]
)
def test_other_json_is_no_state(value):
    with pytest.raises(ValueError, match="^(an object of|the key)"):
        decode(value, {})


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "frames-5"
    save_checkpoint(path, {"part": Part({"a": torch.ones(2), "n": 5})}, {"frames": 5})
    return path


def refuses(checkpoint, words="^checkpoint "):
    part = Part("untouched")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(checkpoint, {"part": part})
    assert part.state == "untouched"


@pytest.mark.parametrize("file", ["checkpoint.json", "part.safetensors"])
def test_every_bit_counts(tiny, file):
    content = (tiny / file).read_bytes()
    for index in range(len(content)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            (tiny / file).write_bytes(content[:index] + bytes([content[index] ^ mask]) + content[index + 1 :])
            refuses(tiny, "checkpoint.json" if file == "checkpoint.json" else "component 'part' is damaged")
    (tiny / file).write_bytes(content)
    load_checkpoint(tiny, {"part": Part()})


@pytest.mark.parametrize("file", ["checkpoint.json", "part.safetensors"])
def test_every_byte_counts(tiny, file):
    content = (tiny / file).read_bytes()
    for changed in (
        *(content[:length] for length in range(len(content))),
        content + b"\n",
        content + b"\0",
        content * 2,
    ):
        (tiny / file).write_bytes(changed)
        refuses(tiny, "checkpoint.json" if file == "checkpoint.json" else "component 'part' is damaged")


def test_bytes_that_are_dropped_or_swapped(tiny):
    for file in ("checkpoint.json", "part.safetensors"):
        content = (tiny / file).read_bytes()
        for index in range(1, len(content)):
            before, here = content[index - 1 : index], content[index : index + 1]
            (tiny / file).write_bytes(content[: index - 1] + here + before + content[index + 1 :])
            if before != here:
                refuses(tiny)
            (tiny / file).write_bytes(content[:index] + content[index + 1 :])
            refuses(tiny)
        (tiny / file).write_bytes(content)


def test_the_same_json_in_other_words_is_damage(tiny):
    text = (tiny / "checkpoint.json").read_text()
    for other in (text.replace(":", ": "), " " + text, text.replace('"frames"', '"fr\\u0061mes"'), text.rstrip()):
        (tiny / "checkpoint.json").write_text(other)
        refuses(tiny, "is not what was written")


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "frames-5"
    save_checkpoint(
        path, {name: Part({"a": torch.full((2,), index)}) for index, name in enumerate(("part", "other"))}, {}
    )
    return path


def test_files_that_were_swapped_renamed_added_or_lost(two):
    (two / "part.safetensors").rename(two / "kept")
    (two / "other.safetensors").rename(two / "part.safetensors")
    (two / "kept").rename(two / "other.safetensors")
    refuses(two, "component 'other' is damaged")
    (two / "part.safetensors").unlink()
    refuses(two, "component 'other' is damaged")
    (two / "other.safetensors").rename(two / "part.safetensors")
    refuses(two, "component 'other' is incomplete, other.safetensors is missing")
    (two / "part.safetensors").rename(two / "part2.safetensors")
    refuses(two, "component 'other' is incomplete")


def test_of_components_that_are_not_asked_for_the_size_is_checked(two, monkeypatch):
    digested, digest = [], checkpoint._digest
    monkeypatch.setattr(checkpoint, "_digest", lambda file: digested.append(file) or digest(file))
    part, other = Part(), two / "other.safetensors"
    load_checkpoint(two, {"part": part}, {"part"})
    assert part.state["a"].tolist() == [0, 0]
    assert digested == [two / "part.safetensors"]
    content = other.read_bytes()
    other.write_bytes(content[:-1] + b"x")
    load_checkpoint(two, {"part": part}, {"part"})
    refuses(two, "component 'other' is damaged")
    for damage, word in ((other.unlink, "incomplete"), (lambda: other.write_bytes(content + b"x"), "damaged")):
        damage()
        with pytest.raises(CheckpointError, match=f"component 'other' is {word}"):
            load_checkpoint(two, {"part": part}, {"part"})


@pytest.mark.parametrize("name", ["notes.txt", "extra.safetensors", ".hidden", "part.safetensors.tmp", "a folder"])
def test_whatever_is_too_much(two, name):
    if "folder" in name:
        (two / name).mkdir()
    else:
        (two / name).write_text("x")
    refuses(two, f"{name} is not what was written")


def test_another_format_is_named(tiny):
    seal(tiny, lambda content: content.update(format=2))
    refuses(tiny, "is of another format than 1")


@pytest.mark.parametrize("key", ["format", "metadata", "components", "files"])
@pytest.mark.parametrize("value", [None, 7, [], "text"])
def test_manifests_of_another_form(tiny, key, value):
    seal(tiny, lambda content: content.update({key: value}) if key != "files" else None)
    if key == "files":
        # sealing goes through the files
        from rlpipe.pipelines.checkpoints.checkpoint import _sealed

        content = {**json.loads((tiny / "checkpoint.json").read_text())["content"], "files": value}
        (tiny / "checkpoint.json").write_text(_sealed(content))
    refuses(tiny)


@pytest.mark.parametrize("name", ["../part", "a b", "", "Part", "/etc/passwd", "part.safetensors", "pärt"])
def test_components_have_plain_names(tmp_path, name):
    with pytest.raises(CheckpointError, match="a component is called"):
        save_checkpoint(tmp_path / "checkpoint", {name: Part()}, {})
    assert not list(tmp_path.iterdir())


def test_a_state_that_cannot_be_written_leaves_nothing_of_this_name(tmp_path):
    with pytest.raises(CheckpointError, match="component 'part' cannot be saved: the state is a object, which"):
        save_checkpoint(tmp_path / "frames-1", {"fine": Part({"a": BASE}), "part": Part(object())}, {})
    assert not (tmp_path / "frames-1").exists()
    # and what is left of it is no obstacle
    save_checkpoint(tmp_path / "frames-1", {"fine": Part({"a": BASE})}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["frames-1"]


@pytest.fixture
def opened(tmp_path):
    made = Run(tmp_path / "run", "ppo", built_from=BuiltFrom("ppo", ppo.Config()))
    yield made
    made.close()


def write(opened, *scores):
    for index, score in enumerate(scores, 1):
        state = {"part": Part({"a": torch.ones(2)})}
        opened.checkpoint(10 * index, state)
        if score is not None:
            opened.keep_best(10 * index, state, score)
    return [int(path.name.removeprefix("frames-")) for path in reversed(checkpoints(opened.folder))]


def test_the_newest_two_are_kept(opened):
    assert write(opened, *[None] * 5) == [40, 50]
    assert not list((opened.folder / "checkpoints").glob(".*"))


def test_the_best_one_of_an_older_version_is_kept(opened):
    write(opened, None)
    seal(newest_checkpoint(opened.folder), lambda content: content["metadata"].update(score=9.0))
    assert write(opened, *[None] * 5) == [10, 40, 50]


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_a_damaged_old_checkpoint_does_not_stop_training(opened, damage):
    write(opened, 9.0, 1.0)
    old = checkpoints(opened.folder)[-1]
    if damage == "empty":
        (old / "checkpoint.json").write_text("")
    else:
        (old / "checkpoint.json").unlink()
    opened.checkpoint(30, {"part": Part({"a": torch.ones(2)})})
    opened.keep_best(30, {"part": Part({"a": torch.ones(2)})}, 2.0)
    assert [path.name[-2:] for path in checkpoints(opened.folder)] == ["30", "20"]


@pytest.mark.parametrize("left", ["empty", "all of it", "a part", "removed"])
def test_what_is_unfinished_is_never_found(opened, left):
    write(opened, 1.0)
    last = newest_checkpoint(opened.folder)
    stage = last.with_name(".frames-000000000020.removed" if left == "removed" else ".frames-000000000020.partial")
    stage.mkdir() if left == "empty" else shutil.copytree(last, stage)
    if left == "a part":
        (stage / "checkpoint.json").unlink()
    assert checkpoints(opened.folder) == [last]
    opened.checkpoint(20, {"part": Part({"a": torch.zeros(2)})})
    part = Part()
    assert load_checkpoint(newest_checkpoint(opened.folder), {"part": part})["frames"] == 20
    assert part.state["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("broken", ["sync", "replace", "save_file", "write_synced"])
def test_writing_that_fails_leaves_the_last_good_one(opened, monkeypatch, broken):
    write(opened, 1.0)

    def fail(*_):
        raise OSError(28, "No space left on device")

    where = "os.replace" if broken == "replace" else broken
    monkeypatch.setattr(f"rlpipe.pipelines.checkpoints.checkpoint.{where}", fail)
    words = "frames-000000000020 cannot be written: No space left on device; the last good checkpoint is .*0010$"
    with pytest.raises(TrainingError, match=words):
        opened.checkpoint(20, {"part": Part({"a": torch.ones(2)})})
    monkeypatch.undo()
    names = ["best-000000000010", "frames-000000000010"]
    assert sorted(path.name for path in (opened.folder / "checkpoints").iterdir()) == names
    load_checkpoint(newest_checkpoint(opened.folder), {"part": Part()})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs that differ in algorithm, in a setting and in their seed."""
    here = tmp_path_factory.mktemp("made")
    small = ["--num-envs", "2", "--rollout-steps", "8", "--hidden", "8", "--final-eval-episodes", "1", "--quiet"]
    make_run(here / "run")
    make_run(here / "a2c", "a2c", *small)
    make_run(here / "config", "dqn", *SIZES, "--gamma", "0.5")
    make_run(here / "seed", "dqn", *SIZES, "--seed", "5")
    return here


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "run", "run")
    return Path("run")


def error_of(command, capsys):
    """Exit code and the one line of a command; and what resume warned of."""
    shutil.rmtree("new", ignore_errors=True)
    code, errors = run(COMMANDS[command]), capsys.readouterr().err.splitlines()
    assert len(errors) == (code != 0)
    return code, errors[0] if errors else ""


@pytest.mark.parametrize("other", ["a2c", "config", "seed"])
def test_checkpoints_of_other_runs(made, folder, capsys, other, caplog):
    foreign = newest_checkpoint(made / other)
    copy = folder / "checkpoints" / "frames-000000000099"
    shutil.copytree(foreign, copy)
    for command in ("evaluate", "start-from"):
        code, error = error_of(command, capsys)
        assert code == 2
        assert copy.name in error
        assert "belongs to another run: its algorithm or config differs" in error
    before = newest_checkpoint(made / "run")
    for own in checkpoints(folder)[1:]:
        shutil.rmtree(own)
    assert error_of("resume", capsys)[0] == 2
    shutil.copytree(before, folder / "checkpoints" / before.name)
    # one of its own is older, and good
    assert error_of("resume", capsys)[0] == 0
    assert copy.with_name(f"{copy.name}.damaged").is_dir()
    (warned,) = [each.message for each in caplog.records if "resuming from an older one" in each.message]
    assert f"{copy.name} belongs to another run: its algorithm or config differs" in warned


@pytest.mark.parametrize("name", ["frames-000000000099", "frames-5", "frames-000000000064.old", "best"])
def test_a_checkpoint_under_another_name(folder, capsys, monkeypatch, name):
    newest, oldest = checkpoints(folder)
    shutil.rmtree(oldest)
    newest.rename(newest.with_name(name))
    monkeypatch.setitem(COMMANDS, "this", ["evaluate", f"run/checkpoints/{name}", "--episodes", "1"])
    code, error = error_of("this", capsys)
    assert (code, "was renamed: it is one of frame 64" in error) == (2, True)
    if name in ("frames-000000000099", "frames-5"):
        before = (folder / "metrics.jsonl").read_bytes()
        code, error = error_of("resume", capsys)
        assert (code, "was renamed" in error) == (2, True)
        assert (folder / "metrics.jsonl").read_bytes() == before


def test_zeros_in_a_name_do_not_matter(folder, capsys):
    newest = newest_checkpoint(folder)
    newest.rename(newest.with_name("frames-64"))
    assert error_of("evaluate", capsys) == (0, "")


def test_a_component_of_another_run_of_the_same_algorithm(made, folder, capsys):
    for own in checkpoints(folder):
        shutil.copy(newest_checkpoint(made / "seed") / "policy.safetensors", own)
    for command in ("evaluate", "resume", "start-from"):
        code, error = error_of(command, capsys)
        assert (code, "component 'policy' is damaged" in error) == (2, True)


def test_the_manifest_says_what_it_is(folder):
    content = read_manifest(newest_checkpoint(folder))
    assert content["metadata"]["frames"] == 64
    assert set(content["files"]) <= {f"{name}.safetensors" for name in content["components"]}
