"""What only a GPU can show: `python -m pytest --device cuda`, on a machine that has one.

The stand-in of test_devices.py checks on every machine where tensors lie and what passes between; here are the real
kernels, generators, copies and graphs. tests/learning has agents that learn on a GPU. A figure that is only close is
compared as closely as single precision allows; where a test says `to the bit`, a GPU may refuse, and then that is to be
written into docs/resume.md.
"""

import copy
import json
import warnings

import pytest
import torch
from comparing import fingerprint
from resuming import ALGORITHMS, TABLES, go, killed, make_config
from small_recipes import DEEP, small
from tensordict import TensorDict
from torch import nn

from rlpipe.losses import GAE, NStep, ReturnToGo
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.algorithms.recipes import RECIPES, builder
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.training.metrics import numbers_of
from rlpipe.pipelines.updates.recorder import make_gradient
from rlpipe.pipelines.updates.update import gradient_step
from rlpipe.scripts.main import run

pytestmark = pytest.mark.cuda
CUDA = "cuda"
LEARNERS = ["dqn", "qr-dqn", "ppo", "a2c", "reinforce", "ppo/inverted-double-pendulum"]


@pytest.fixture
def build(request):
    """Builds a recipe's pipeline on a device, with small networks."""

    def make(name, device, **changes):
        pipeline = builder(RECIPES[name].algorithm)(small(name, device, **changes))
        request.addfinalizer(pipeline.close)
        return pipeline

    return make


def close(actual, expected):
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=1e-3, atol=1e-4)


def learning(loss):
    return [each for each in loss.parameters() if each.requires_grad]


def on_gpu(tensors):
    return all(each.device.type == CUDA for each in tensors)


@pytest.mark.parametrize("name", DEEP)
def test_every_recipe_trains_and_is_evaluated(name, build):
    pipeline = build(name, CUDA)
    # a copy of it would never learn
    assert pipeline.collector.policy is pipeline.policy
    assert on_gpu([*pipeline.state["loss"].parameters(), *pipeline.state["loss"].buffers()])
    updates = 0
    for batch in pipeline.collector:
        assert on_gpu(batch.values(True, True))
        numbers = numbers_of(pipeline.learn(batch))
        assert all(abs(each) < float("inf") for each in numbers.values())
        updates += numbers["updates"]
    assert updates > 0
    seen = evaluate(pipeline.policy, small(name, CUDA).eval_env, episodes=2, seed=0, transforms=pipeline.transforms)
    assert len(seen.returns) == 2


def minibatch_of(pipeline):
    """The loss of a pipeline, and what it reads of the first batch, prepared as `learn` does."""
    loss, batch = pipeline.state["loss"], next(iter(pipeline.collector))
    if hasattr(loss, "q_network"):
        batch = NStep(gamma=0.9, n=2)(batch)
    else:
        critic = getattr(loss, "critic", None)
        batch = (ReturnToGo(critic, gamma=0.9) if type(loss).__name__ == "ReinforceLoss" else GAE(critic))(batch)
    return loss, batch.select(*loss.in_keys).reshape(-1)


@pytest.mark.parametrize("name", LEARNERS)
def test_networks_begin_the_same(name, build):
    one, other = (build(name, device).state["loss"].state_dict() for device in ("cpu", CUDA))
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key].cpu()), key


@pytest.mark.parametrize("execution", ["eager", "recorded", "graphed"])
@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_are_the_cpus(name, execution, build):
    loss, minibatch = minibatch_of(build(name, "cpu"))
    there = build(name, CUDA).state["loss"]
    expected, actual = make_gradient(loss, learning(loss)), make_gradient(there, learning(there), execution)
    for scale in torch.linspace(0.5, 1.0, 14).tolist():
        # others each time, so that a graph which does not read them afresh would be found out
        other = minibatch.clone()
        for key in ("advantage", ("next", "reward")):
            if other.get(key, None) is not None:
                other.set(key, other.get(key) * scale)
        gradient, terms = expected(other)
        gradient_there, terms_there = actual(other.to(CUDA))
        for one, two in zip(gradient_there, gradient, strict=True):
            assert (one is None) == (two is None)
            if two is not None:
                close(one, two)
        for key, value in terms.items():
            close(terms_there[key], value)


@pytest.mark.parametrize("name", LEARNERS)
def test_graphs_make_the_updates_of_recordings(name, build):
    loss, minibatch = minibatch_of(build(name, CUDA))
    ends = []
    for execution in ("recorded", "graphed"):
        own = copy.deepcopy(loss)
        optimizer = torch.optim.Adam(learning(own), lr=1e-3, fused=True)
        update = gradient_step(own, optimizer, max_norm=0.5, execution=execution)
        # two shapes in turn, each of which becomes a graph
        scalars = [update(minibatch[: len(minibatch) - number % 2]) for number in range(40)]
        ends.append((own.state_dict(), [each["grad_norm"] for each in scalars]))
    for key, value in ends[0][0].items():
        if isinstance(value, torch.Tensor):
            close(ends[1][0][key], value)
    for one, two in zip(ends[1][1], ends[0][1], strict=True):
        close(one, two)


@pytest.mark.parametrize("execution", ["recorded", "graphed"])
@pytest.mark.parametrize("name", LEARNERS)
def test_an_update_waits_for_nothing(name, execution, build):
    loss, minibatch = minibatch_of(build(name, CUDA))
    update = gradient_step(loss, torch.optim.Adam(learning(loss), fused=True), max_norm=0.5, execution=execution)
    for _ in range(12):
        update(minibatch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(minibatch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_waits_for_its_observations_and_its_actions_only(name, build):
    config, pipeline = small(name, CUDA), build(name, CUDA)
    batches = iter(pipeline.collector)
    next(batches)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            next(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    synchronising = [each for each in waits if "synchroniz" in str(each.message)]
    # up and down in each step, and the rest of the rollout at its end
    assert len(synchronising) <= config.rollout_steps * (len(pipeline.policy.in_keys) + 1) + 1


class Counting(nn.Module):
    """A loss with a layer that counts, and draws from the global generator."""

    in_keys = ["x"]

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, batch):
        return TensorDict({"loss": self.layers(batch["x"]).square().mean()})


def test_a_graph_counts_once_and_draws_anew():
    loss = Counting().to(CUDA)
    gradient_of = make_gradient(loss, list(loss.parameters()), "graphed")
    batch = TensorDict({"x": torch.randn(64, 4, device=CUDA)}, [64])
    terms = [gradient_of(batch)[1]["loss"].item() for _ in range(20)]
    assert loss.layers[1].num_batches_tracked.item() == 20
    assert len(set(terms[11:])) == 9


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_evaluation_touches_no_generator_of_the_gpu(stochastic, build):
    pipeline = build("ppo", CUDA)
    before, streams = torch.cuda.get_rng_state(), pipeline.state["random"].state_dict()
    env = small("ppo", CUDA).eval_env
    seen = [evaluate(pipeline.policy, env, episodes=3, seed=1, stochastic=stochastic) for _ in range(2)]
    assert seen[0] == seen[1]
    assert torch.equal(torch.cuda.get_rng_state(), before)
    after = pipeline.state["random"].state_dict()
    assert all(torch.equal(after[name], state) for name, state in streams.items())


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in TABLES])
def test_a_killed_run_goes_on_to_the_bit(algorithm, graphs, tmp_path):
    config = make_config(algorithm, "cartpole", device=CUDA, cuda_graphs=graphs)
    go(tmp_path / "whole", algorithm, config)
    killed(tmp_path / "killed", algorithm, config, "learn", 9)
    go(tmp_path / "killed", algorithm, config)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


def test_a_seed_gives_the_same_run_to_the_bit(tmp_path):
    config = make_config("ppo", "cartpole", device=CUDA)
    for name in ("one", "other"):
        go(tmp_path / name, "ppo", config)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "other")


TINY = ["--num-envs", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--total-frames", "640", "--quiet"]


def test_the_commands(tmp_path, capsys):
    folder = str(tmp_path / "run")
    train = ["train", "ppo", *TINY, "--device", "cuda", "--cuda-graphs", "--gif", "--json", "--run-dir", folder]
    assert run(train) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 640
    assert run(["resume", folder, "--total-frames", "1280", "--quiet"]) == 0
    assert run(["evaluate", folder, "--episodes", "2"]) == 0
    with trained(folder) as agent:
        assert all(each.device.type == "cpu" for each in agent.policy.parameters())


def test_a_full_gpu_is_told_of_in_one_line(tmp_path, capsys):
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(free - 300_000_000, 0), dtype=torch.uint8, device=CUDA)
    arguments = ["train", "dqn", "--device", "cuda", "--quiet", "--buffer-size", "20000000", "--total-frames", "2000"]
    code = run([*arguments, "--run-dir", str(tmp_path / "run")])
    del taken
    torch.cuda.empty_cache()
    error = capsys.readouterr().err
    assert code == 1
    assert error.count("\n") == 1
    assert "the GPU ran out of memory for the replay buffer; lower --buffer-size; there is no checkpoint yet" in error
