"""CUDA graphs of updates: what is captured, what is launched, what is refused; on a stand-in for CUDA's own."""

import contextlib

import pytest
import torch
from comparing import equal
from small_losses import Cubic, Part, batch_of
from small_recipes import DEEP, plain, small
from standin import DEVICE, standing_in
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.algorithms import ppo, reinforce
from rlpipe.pipelines.algorithms.recipes import RECIPES, builder
from rlpipe.pipelines.updates import cuda_graph
from rlpipe.pipelines.updates import recorder as recording
from rlpipe.pipelines.updates.cuda_graph import graphed
from rlpipe.pipelines.updates.recorder import make_gradient


class FakeGraph:
    """Does what a CUDA graph does: the captured operations once more, on the same memory, when it is replayed."""

    made: list["FakeGraph"] = []

    def __init__(self):
        self.operations, self.replays = [], 0
        self.made.append(self)

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for function, args, kwargs, results in self.operations:
            fresh = function(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(fresh), strict=True):
                if old is not new and isinstance(old, torch.Tensor):
                    old.copy_(new)


class Capture(TorchDispatchMode):
    """Notes operations for a `FakeGraph`."""

    def __init__(self, graph, capture_error_mode="global"):
        super().__init__()
        self.graph = graph
        assert capture_error_mode == "thread_local"

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        # no result of an operation is what it was computed from
        self.graph.operations.append((function, args, kwargs or {}, results))
        return results


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def cuda(monkeypatch):
    """The graphs that were captured, by what stands in for CUDA's own."""
    monkeypatch.setattr(FakeGraph, "made", [])
    fakes = {
        "CUDAGraph": FakeGraph,
        "graph": Capture,
        "Stream": Stream,
        "current_stream": Stream,
        "current_device": lambda: 0,
        "stream": lambda stream: contextlib.nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    return FakeGraph.made


def test_each_launch_reads_what_it_is_given_and_its_results_stay(cuda):
    weight = torch.tensor([2.0, 3.0])
    launch = graphed(lambda x, y: (weight * x + y, x.sum()), [torch.ones(2), torch.zeros(2)])
    first = launch(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
    weight.mul_(10.0)
    second = launch(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert [each.tolist() for each in first] == [[12.0, 26.0], 3.0]
    assert [each.tolist() for each in second] == [[20.0, 31.0], 2.0]
    assert [graph.replays for graph in cuda] == [2]


def test_what_it_writes_is_as_it_was_until_it_is_launched(cuda):
    total = torch.tensor(5.0)
    launch = graphed(lambda x: (total.add_(x),), [torch.tensor(1.0)], [total])
    # a capture runs nothing, and a stand-in's does once
    total.fill_(5.0)
    assert launch(torch.tensor(2.0))[0].item() == 7.0
    calls = []

    def count(x):
        calls.append(x)
        return (total.add_(x),)

    total.fill_(5.0)
    cuda_graph._warm_up(count, [torch.tensor(1.0)], [total])
    assert len(calls) == 3
    assert total.item() == 5.0


def test_the_arguments_it_was_captured_with_are_left_alone(cuda):
    given = torch.ones(2)
    launch = graphed(lambda x: (x * 2.0,), [given])
    launch(torch.zeros(2))
    assert given.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (
            RuntimeError("operation not permitted when stream is capturing\nmore"),
            TrainingError,
            "^the update cannot be a CUDA graph: operation not permitted when stream is capturing; omit --cuda-graphs$",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_what_cannot_be_captured_is_told_of(raised, kind, message, cuda):
    def fail(x):
        raise raised

    with pytest.raises(kind, match=message):
        graphed(fail, [torch.ones(1)])


def test_a_capture_that_runs_out_of_memory_says_so(cuda, monkeypatch):
    class Failing(Capture):
        def __enter__(self):
            return self

        def __exit__(self, *raised):
            raise RuntimeError("the capture is invalid")

    monkeypatch.setattr(torch.cuda, "graph", Failing)
    calls = []

    def fail(x):
        calls.append(x)
        if len(calls) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (x,)

    with pytest.raises(torch.OutOfMemoryError):
        graphed(fail, [torch.ones(1)])


def test_a_loss_is_captured_when_its_kind_has_come_often(cuda):
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "graphed")
    kept = []
    for seen in range(1, 15):
        gradient, terms = gradient_of(batch_of(seen, seen + 2.0))
        assert gradient[0].item() == pytest.approx(12 * (seen + 1))
        assert gradient[1] is None
        kept.append(terms["mean"])
    assert [each.item() for each in kept] == [float(seen + 1) for seen in range(1, 15)]
    assert [graph.replays for graph in cuda] == [4]
    # another shape is another graph, and the first serves its own as before
    for _ in range(12):
        assert gradient_of(batch_of(1.0, 2.0, 6.0))[0][0].item() == pytest.approx(36)
    assert gradient_of(batch_of(0.0, 2.0))[0][0].item() == pytest.approx(12)
    assert [graph.replays for graph in cuda] == [5, 2]


@pytest.mark.parametrize(
    ("change", "derivative", "captured"),
    [
        (lambda loss: loss.weight.data.fill_(3.0), 27, 1),
        (lambda loss: loss.load_state_dict({**loss.state_dict(), "weight": torch.tensor(3.0)}), 27, 1),
        # memory of its own, which the graph does not read
        (lambda loss: setattr(loss.weight, "data", torch.tensor(3.0)), 27, 2),
        (lambda loss: setattr(loss.part, "offset", torch.tensor(2.0)), 36, 2),
        (lambda loss: setattr(loss, "scale", 2.0), 24, 2),
    ],
)
def test_a_graph_follows_what_the_loss_is_set_to(change, derivative, captured, cuda):
    loss = Cubic()
    gradient_of = make_gradient(loss, list(loss.parameters()), "graphed")
    for _ in range(12):
        assert gradient_of(batch_of(1.0))[0][0].item() == pytest.approx(12)
    change(loss)
    for _ in range(12):
        assert gradient_of(batch_of(1.0))[0][0].item() == pytest.approx(derivative)
    assert len(cuda) == captured


def train(config, name, batches=14):
    pipeline = builder(RECIPES[name].algorithm)(config)
    scalars = [pipeline.learn(batch) for batch, _ in zip(pipeline.collector, range(batches), strict=False)]
    pipeline.close()
    return plain(pipeline.state["loss"].state_dict()), [plain(dict(each.items())) for each in scalars]


@pytest.mark.parametrize(("name", "scripted"), [("ppo", True), ("dqn", True), ("a2c/eight-workers", False)])
def test_updates_are_those_of_recordings(name, scripted, cuda, monkeypatch):
    if not scripted:
        monkeypatch.delattr(torch.jit, "CompilationUnit")
    config = small(name, "cpu", total_frames=24 * 14)
    expected, scalars = train(config, name)
    monkeypatch.setattr(type(config), "execution", "graphed")
    weights, graphed_scalars = train(config, name)
    assert sum(graph.replays for graph in cuda) > 0
    assert equal(weights, expected)
    assert all(equal(one, other) for one, other in zip(graphed_scalars, scalars, strict=True))


@pytest.mark.parametrize("name", [name for name in DEEP if name != "reinforce/episodic"])
def test_no_recipes_loss_goes_to_the_host(name, monkeypatch):
    """All that a graph needs of a loss: it stays on the GPU, and depends on no number of the batch."""
    captured = []

    def note(function, inputs, state):
        captured.append([each.device for each in inputs])
        return function

    monkeypatch.setattr(recording, "graphed", note)
    monkeypatch.setattr(recording, "_REPEATS", 1)
    with standing_in(monkeypatch) as standin:
        config = small(name, "cuda", cuda_graphs=True, total_frames=48)
        pipeline = builder(RECIPES[name].algorithm)(config)
        for batch in pipeline.collector:
            pipeline.learn(batch)
        pipeline.close()
        assert standin is not None
    assert captured
    assert {device for devices in captured for device in devices} == {DEVICE}


class Constant(Part):
    """Takes a constant to the device in each call."""

    def forward(self, x):
        return x + torch.tensor([1.0]).to(x.device)


def test_a_loss_that_brings_a_constant_along_is_refused(monkeypatch):
    with standing_in(monkeypatch):
        loss = Cubic()
        loss.part = Constant()
        loss.to(DEVICE)
        monkeypatch.setattr(recording, "_REPEATS", 1)
        gradient_of = make_gradient(loss, list(loss.parameters()), "graphed")
        with pytest.raises(ValueError, match=r"copies a tensor of shape \[1\] from cpu to .*; make it a buffer, or"):
            gradient_of(batch_of(1.0, 2.0).to(DEVICE))


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (ppo, {}, "cuda_graphs is True, which needs device to be 'cuda'; it is 'cpu'"),
        (ppo, {"device": "cuda", "compile": True}, "cuda_graphs is True, which needs compile to be False"),
        (reinforce, {"device": "cuda", "normalize": "episode"}, "cuda_graphs is True, which needs normalize to be"),
    ],
)
def test_options_that_contradict_one_another_are_refused(module, options, message):
    with pytest.raises(ConfigError, match=message):
        module.Config(cuda_graphs=True, **options)


def test_the_option_reaches_the_update():
    assert ppo.Config(cuda_graphs=True, device="cuda").execution == "graphed"
    assert ppo.Config(device="cuda").execution == "recorded"
    config = ppo.Config(cuda_graphs=True, device="cuda").on_cpu()
    assert (config.cuda_graphs, config.device) == (False, "cpu")
