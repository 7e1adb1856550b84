"""Recorded gradients of losses that are changed at random, beside autograd's: to the bit, after every change."""

import contextlib
import itertools
import warnings
from unittest.mock import patch

import changing
import pytest
import torch
from changing import CHANGES, Layer, World, plans
from hypothesis import Phase, given, settings
from hypothesis.strategies import sampled_from

from rlpipe.pipelines.updates import compiler, replay
from rlpipe.pipelines.updates import recorder as recording
from rlpipe.pipelines.updates.recorder import make_gradient

pytestmark = pytest.mark.slow


def compute(kinds, phases, execution):
    """The bits of gradients, of the loss's entries, and of what it writes into its minibatch; or the error."""
    world, found = World(*kinds), []
    shift, changing.FACTOR = Layer.shift, 1.0
    gradient_of = make_gradient(world.loss, world.parameters, execution)
    try:
        for changes, updates in [([], 13), *phases]:
            for name, number in changes:
                # what cannot be done to this loss is refused in both
                with contextlib.suppress(AttributeError, IndexError, KeyError, RuntimeError, StopIteration, ValueError):
                    CHANGES[name](world, number)
            found += [bits_of(world, gradient_of) for _ in range(updates)]
    finally:
        Layer.shift, changing.FACTOR = shift, 1.0
        for handle in world.handles:
            handle.remove()
    return found, world.loss.state_dict()


def bits_of(world, gradient_of):
    batch = world.batch()
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for context in world.contexts:
            stack.enter_context(context())
        try:
            gradient, terms = gradient_of(batch)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    # as an optimiser would
    with torch.no_grad():
        for parameter, step in zip(world.parameters, gradient, strict=True):
            if step is not None:
                parameter.sub_(step, alpha=0.01)
    tensors = [*gradient, *terms.values(), *batch.detach().values(True, True)]
    return [each if each is None else (each.dtype, each.shape, each.numpy().tobytes()) for each in tensors]


@pytest.mark.parametrize("kinds", list(itertools.product([False, True], repeat=3)))
def test_the_loss_is_recorded(kinds, monkeypatch):
    """Or the comparison below would be of autograd with itself."""
    made, make_replay = [], recording.make_replay
    monkeypatch.setattr(recording, "make_replay", lambda *given: made.append(given) or make_replay(*given))
    found, _ = compute(kinds, [], "recorded")
    assert len(made) == 1
    assert not any(isinstance(each, str) for each in found)


WAYS = {
    "TorchScript": ("recorded", contextlib.nullcontext()),
    "Python": ("recorded", patch.object(replay, "script", side_effect=RuntimeError)),
    # the operations that PyTorch's compiler would be given
    "compiled": ("compiled", patch.object(compiler, "compile_graph", lambda graph, inputs: graph)),
}


# a failure is not made smaller: each case takes a second
@settings(max_examples=50, phases=[Phase.generate])
@given(plans(), sampled_from(sorted(WAYS)))
def test_a_recording_is_never_stale(plan, way):
    kinds, phases = plan
    expected, state = compute(kinds, phases, "eager")
    execution, changed = WAYS[way]
    with changed:
        actual, recorded_state = compute(kinds, phases, execution)
    for number, (one, other) in enumerate(zip(expected, actual, strict=True)):
        assert one == other, number
    assert all(torch.equal(value.nan_to_num(), recorded_state[key].nan_to_num()) for key, value in state.items())
