"""The projection of a return distribution: by hand, and against a plain loop of the paper's Algorithm 1."""

import math

import pytest
import torch
from torch import tensor

from rlpipe.losses.functional import categorical_projection

ATOMS = tensor([-1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("probability", "reward", "discount", "expected"),
    [
        # nothing moves
        ([0.2, 0.3, 0.5], 0.0, 1.0, [0.2, 0.3, 0.5]),
        # half a grid up: each in two halves, and the last beyond the end
        ([0.2, 0.3, 0.5], 0.5, 1.0, [0.1, 0.1 + 0.15, 0.15 + 0.5]),
        # the atoms at -0.5, 0, 0.5
        ([0.2, 0.3, 0.5], 0.0, 0.5, [0.1, 0.1 + 0.3 + 0.25, 0.25]),
        # terminated: all to the reward, between two atoms, on one, on the ends, beyond them
        ([0.2, 0.3, 0.5], 0.25, 0.0, [0.0, 0.75, 0.25]),
        ([0.2, 0.3, 0.5], 0.0, 0.0, [0.0, 1.0, 0.0]),
        ([0.2, 0.3, 0.5], 1.0, 0.0, [0.0, 0.0, 1.0]),
        ([0.2, 0.3, 0.5], -1.0, 0.0, [1.0, 0.0, 0.0]),
        ([0.2, 0.3, 0.5], 7.0, 0.0, [0.0, 0.0, 1.0]),
        ([0.2, 0.3, 0.5], -7.0, 0.9, [1.0, 0.0, 0.0]),
    ],
)
def test_by_hand(probability, reward, discount, expected):
    projected = categorical_projection(tensor(probability), tensor(reward), tensor(discount), ATOMS)
    torch.testing.assert_close(projected, tensor(expected))


def by_loop(probability, reward, discount, atoms):
    """Algorithm 1 of Bellemare et al. 2017, with the case of an atom that falls on another, which it forgets."""
    low, high, spacing = atoms[0], atoms[-1], (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    projected = [0.0] * len(atoms)
    for atom, mass in zip(atoms, probability, strict=True):
        place = (min(max(reward + discount * atom, low), high) - low) / spacing
        below, above = math.floor(place), math.ceil(place)
        if below == above:
            projected[below] += mass
        else:
            projected[below] += mass * (above - place)
            projected[above] += mass * (place - below)
    return projected


def test_against_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linspace(-10, 10, 51)
    probability = torch.rand(4, 25, 51, generator=generator).softmax(-1)
    reward = 8 * torch.randn(4, 25, generator=generator)
    discount = 0.99 * (torch.rand(4, 25, generator=generator) < 0.7)
    projected = categorical_projection(probability, reward, discount, atoms)
    assert projected.shape == (4, 25, 51)
    torch.testing.assert_close(projected.sum(-1), torch.ones(4, 25))
    for row in range(4):
        for column in range(25):
            expected = by_loop(
                probability[row, column].tolist(),
                reward[row, column].item(),
                discount[row, column].item(),
                atoms.tolist(),
            )
            torch.testing.assert_close(projected[row, column], tensor(expected), rtol=0, atol=1e-5)
