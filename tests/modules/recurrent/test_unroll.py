"""Recurrent units over sequences: their own gradients against numerical ones."""

import pytest
import torch

from rlpipe.modules.recurrent.unroll import UnrollGRU, UnrollLSTM


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.fixture
def keep():
    torch.manual_seed(0)
    # an episode that begins with the sequence, one in its middle, and two steps in a row that begin one
    kept = torch.ones(3, 5, 1, dtype=torch.float64)
    kept[0, 0] = kept[1, 2] = kept[2, 3] = kept[2, 4] = 0.0
    return kept


def test_gradients_of_a_gru(keep):
    inputs, weights = (drawn(3, 5, 6), drawn(3, 2)), (drawn(6, 2), drawn(6))
    assert torch.autograd.gradcheck(lambda x, h, *rest: UnrollGRU.apply(x, keep, h, *rest), (*inputs, *weights))


def test_gradients_of_an_lstm(keep):
    inputs = drawn(3, 5, 8), drawn(3, 2), drawn(3, 2), drawn(8, 2)
    assert torch.autograd.gradcheck(lambda x, h, c, weight: UnrollLSTM.apply(x, keep, h, c, weight)[0], inputs)


def test_no_gradient_flows_over_the_beginning_of_an_episode(keep):
    inputs, hidden, weight, bias = drawn(3, 5, 6), drawn(3, 2), drawn(6, 2), drawn(6)
    UnrollGRU.apply(inputs, keep, hidden, weight, bias)[:, -1].sum().backward()
    assert inputs.grad.any(-1).tolist() == [
        [True] * 5,
        [False, False, True, True, True],
        [False, False, False, False, True],
    ]
    assert hidden.grad.any(-1).tolist() == [False, False, False]
