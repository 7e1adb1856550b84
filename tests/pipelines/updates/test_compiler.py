"""Compiled gradients: by PyTorch's compiler from the first minibatch on, and without a compiler."""

import contextlib
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from small_losses import Cubic, batch_of
from tensordict import TensorDict
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from rlpipe.pipelines.algorithms import reinforce
from rlpipe.pipelines.updates import compiler
from rlpipe.pipelines.updates import recorder as recording
from rlpipe.pipelines.updates.recorder import make_gradient


@pytest.fixture
def rounded(monkeypatch):
    """A compiler that rounds differently, so that what it made can be told from autograd's; and its graphs."""
    graphs = []

    def compile_graph(graph, inputs):
        graphs.append(graph)
        return lambda *tensors: [each + 0.125 for each in graph(*tensors)]

    monkeypatch.setattr(compiler, "compile_graph", compile_graph)
    return graphs


def test_the_first_gradient_is_compiled_and_so_are_those_of_each_shape(rounded, monkeypatch):
    traced, differentiate = [], recording._differentiate
    monkeypatch.setattr(recording, "_differentiate", lambda *given: traced.append(given) or differentiate(*given))
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "compiled")
    # the last minibatch of an epoch is short
    for _ in range(20):
        for batch, mean in ((batch_of(1.0, 3.0), 2), (batch_of(4.0), 4)):
            gradient, terms = gradient_of(batch)
            assert gradient[0].item() == 12 * mean + 0.125
            assert terms["mean"].item() == mean + 0.125
    assert (len(rounded), len(traced)) == (2, 2)


def test_a_changed_number_is_compiled_anew(rounded):
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "compiled")
    for scale in (1.0, 2.0, 1.0, 2.0):
        loss.scale = scale
        assert gradient_of(batch_of(1.0))[0][0].item() == 12 * scale + 0.125
    assert len(rounded) == 2


def test_more_kinds_than_four_are_left_to_autograd_and_the_log_says_so(rounded, caplog):
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "compiled")
    for size in (1, 2, 3, 4, 5, 5, 6):
        exact = gradient_of(batch_of(*[1.0] * size))[0][0].item() == 12
        assert exact == (size > 4)
    assert len(rounded) == 4
    assert [each.getMessage().split(": ")[1] for each in caplog.records] == [
        "minibatches and settings of more than four kinds are not compiled; resuming is not exact then"
    ]


def test_a_long_loss_is_recorded(rounded, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "_MOST_OPERATIONS", 3)
    check_falls_back(r"they have \d+ operations, of which compiling takes too long", caplog)
    assert not rounded


def check_falls_back(reason, caplog):
    gradient_of = make_gradient(loss := Cubic(), list(loss.parameters()), "compiled")
    for number in range(1, 14):
        assert gradient_of(batch_of(float(number)))[0][0].item() == pytest.approx(12 * number)
    assert [each.exact for each in gradient_of._recordings] == [True]
    (line,) = [each.getMessage() for each in caplog.records if each.name == "rlpipe"]
    assert re.fullmatch(f"--compile: the updates are not compiled, but recorded: {reason}", line)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("InvalidCxxCompiler: None found in\nmore"), "there is no C++ compiler; install g++ or set CXX"),
        (ValueError("a kernel\nmore"), "a kernel"),
    ],
)
def test_what_cannot_be_compiled_is_recorded(error, message, monkeypatch, caplog):
    def fail(graph, inputs):
        raise error

    monkeypatch.setattr(compiler, "compile_graph", fail)
    check_falls_back(re.escape(message), caplog)


def test_a_compiled_function_that_fails_has_changed_nothing(monkeypatch):
    monkeypatch.setattr(compiler, "compile_graph", lambda graph, inputs: lambda *tensors: (graph(*tensors), 1 / 0))
    loss, batch = Everything(), TensorDict(x=torch.ones(8, 3), batch_size=[8])
    make_gradient(loss, list(loss.parameters()), "compiled")(batch)
    assert loss.network[1].num_batches_tracked.item() == 1
    assert (batch["x"] == 2).all()


def test_without_a_compiler(monkeypatch, tmp_path, caplog):
    """PyTorch's own search, which reads the environment when it is first imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._inductor import config, cpp_builder

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    cpp_builder.cpp_compiler_search.cache_clear()
    with config.patch({"cpp.cxx": (None, str(tmp_path / "nowhere"))}):
        check_falls_back(r"there is no C\+\+ compiler; install g\+\+ or set CXX", caplog)
    cpp_builder.cpp_compiler_search.cache_clear()


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, "home/.cache/rlpipe/compiled"), ("xdg", "xdg/rlpipe/compiled")]
)
def test_the_cache_is_kept_in_the_users_folder(chosen, expected, monkeypatch, tmp_path):
    # as importing PyTorch's compiler leaves it
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if chosen:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / chosen))
    compiler._keep_cache()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / expected
    assert (tmp_path / expected).is_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    compiler._keep_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_a_home_that_cannot_be_written_leaves_the_cache_to_pytorch(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiler._keep_cache()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert "what is compiled is not kept for later runs" in caplog.text


def test_reinforces_batches_are_all_different_and_not_compiled(rounded, caplog):
    config = reinforce.Config(
        num_envs=4, rollout_steps=32, max_episode_steps=16, total_frames=256, hidden=(8,), compile=True
    )
    with contextlib.closing(reinforce.build(config)) as pipeline:
        for batch in pipeline.collector:
            pipeline.learn(batch)
    assert not rounded
    assert "--compile has no effect on reinforce" in caplog.text


class Everything(nn.Module):
    """Batch normalisation, dropout, noise, an entry that is changed in place, and an attribute."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.scale = 1.0

    def forward(self, batch):
        batch["x"].mul_(2.0)
        batch.set("seen", batch["x"] + 1)
        return TensorDict(loss=self.scale * self.network(batch["x"] + torch.randn(3)).square().mean())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
def test_pytorchs_compiler_does_what_autograd_does(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = []
    for execution in ("eager", "compiled", "compiled"):
        loss = Everything()
        gradient_of = make_gradient(loss, list(loss.parameters()), execution)
        numbers = []
        torch.manual_seed(1)
        for number in range(4):
            batch = TensorDict(x=torch.randn(8, 3), batch_size=[8])
            loss.network[0].weight.data += 0.1 * number
            gradient, terms = gradient_of(batch)
            numbers += [*gradient, *terms.values(), batch["x"], batch["seen"], torch.get_rng_state()]
        found.append([*numbers, *loss.buffers()])
    eager, compiled, again = found
    torch.testing.assert_close(compiled, eager)
    assert all(torch.equal(*pair) for pair in zip(compiled, again, strict=True))
    assert not [each for each in caplog.records if each.name == "rlpipe"]
