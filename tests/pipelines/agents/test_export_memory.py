"""`rlpipe export` of policies that remember: states go in and come out, and the caller carries them."""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlpipe.pipelines.agents import export
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts.main import run
from tests.helpers import weighted  # noqa: F401 - registers its environments

SHORT = {"total_frames": 64, "num_envs": 2, "hidden": (8,), "rollout_steps": 32, "minibatch_size": 32}
KINDS = {
    "gru": ("Box", {"normalize_observation": True}, ["recurrent_state"]),
    "lstm": ("Nested", {}, ["recurrent_state_h", "recurrent_state_c"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}
    for kind, (name, options, _) in KINDS.items():
        made[kind] = tmp_path_factory.mktemp(kind) / "run"
        own = {"recurrent": kind, "recurrent_size": 6, "env_id": f"tests/Weighted{name}-v0", **options}
        run_recipe("ppo", folder=made[kind], loggers=(), final_eval_episodes=1, **SHORT, **own)
    return made


def program(file):
    """A function from raw entries and states to what the file alone gives."""
    if file.suffix == ".pt2":
        act = torch.export.load(file).module()
        return lambda *given: [each.detach().numpy() for each in act(*map(torch.from_numpy, given))]
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *given: session.run(None, dict(zip(names, given, strict=True)))


@pytest.mark.parametrize(("kind", "suffix"), [("gru", ".pt2"), ("lstm", ".onnx")])
def test_the_caller_carries_the_states(runs, tmp_path, capsys, kind, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    out, names = tmp_path / f"agent{suffix}", KINDS[kind][-1]
    assert run(["export", str(runs[kind]), "--out", str(out), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in written["inputs"]][-len(names) :] == names
    assert [each["name"] for each in written["outputs"]][-len(names) :] == [f"next.{name}" for name in names]
    assert written["inputs"][-1]["shape"] == ["batch", 1, 6]
    act, blank = program(out), [np.zeros((1, 1, 6), np.float32)] * len(names)
    with trained(runs[kind]) as agent:
        space, states, state = agent.environment.envs.single_observation_space, blank, None
        for step in range(12):
            observation, start = space.sample(), step == 7
            action, state = agent.predict(observation, state, start)
            seen = [observation] if kind == "gru" else list(observation.values())
            raw = [each[0] if isinstance(each, tuple) else each for each in seen]
            given = act(*(np.asarray(each)[None] for each in raw), *(blank if start else states))
            states = given[-len(names) :]
            for mine, its in zip(states, state, strict=True):
                np.testing.assert_allclose(mine[0], its, rtol=0, atol=1e-5)
            expected = [action] if kind == "gru" else [action[0], action[1]["arm"]]
            for mine, its in zip(given, expected, strict=False):
                np.testing.assert_allclose(mine[0], its, rtol=0, atol=1e-5)


def test_a_program_that_remembers_otherwise_gets_no_name(runs, tmp_path, monkeypatch, capsys):
    write, calls = export._write_torch, []

    def write_another(*given):
        act = write(*given)

        def forgetful(*inputs):
            calls.append(inputs)
            *actions, state = act(*inputs)
            return *actions, state + 1e-3 if len(calls) > 5 else state

        return forgetful

    monkeypatch.setattr(export, "_write_torch", write_another)
    assert run(["export", str(runs["gru"]), "--out", str(tmp_path / "agent.pt2")]) == 1
    assert "does not act as the policy does: a state is 1.0e-03 off" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_check_feeds_states_back_and_begins_episodes_with_zeros(runs, tmp_path, monkeypatch):
    write, calls = export._write_torch, []

    def write_noted(*given):
        act = write(*given)

        def noted(*inputs):
            given = act(*inputs)
            calls.append((inputs[-1], given[-1]))
            return given

        return noted

    monkeypatch.setattr(export, "_write_torch", write_noted)
    assert run(["export", str(runs["gru"]), "--out", str(tmp_path / "agent.pt2")]) == 0
    # the first call has random states; episodes have 9 steps
    played = calls[1:-1]
    assert all(not fed.any() for fed, _ in played[::9])
    for (_, given), (fed, _) in itertools.pairwise(played[:9]):
        assert torch.equal(given, fed)
        assert fed.any()


def test_safetensors_name_the_memory(runs, tmp_path):
    out = tmp_path / "agent.safetensors"
    assert run(["export", str(runs["gru"]), "--out", str(out)]) == 0
    memory = [name for name in load_file(out) if name.startswith("memory.rnn.gru.")]
    assert sorted(memory) == [f"memory.rnn.gru.{part}_l0" for part in ("bias_hh", "bias_ih", "weight_hh", "weight_ih")]
