"""Tables: rows in, rows out, and moves that add up."""

import pytest
import torch

from rlpipe.modules import ActionValueTable, PreferenceTable


@pytest.mark.parametrize(
    ("table", "initial"),
    [
        (ActionValueTable(5, 3), 0.0),
        (ActionValueTable(5, 3, 2.5), 2.5),
        (PreferenceTable(5, 3), 1.0),
        (PreferenceTable(5, 3, -4.0), -4.0),
    ],
)
def test_a_fresh_table_is_float64_and_the_same_everywhere(table, initial):
    assert table.values.dtype is torch.float64
    assert table.values.tolist() == [[initial] * 3] * 5


def test_a_table_is_saved_but_is_no_parameter():
    table = ActionValueTable(2, 2)
    assert list(table.parameters()) == []
    table.add(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.1], dtype=torch.float64))
    other = ActionValueTable(2, 2)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.values, table.values)
    assert other.values[1, 0] == 0.1


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 3)])
def test_states_of_any_shape_give_their_rows(shape):
    values, preferences = ActionValueTable(6, 2), PreferenceTable(6, 2, beta=0.5)
    numbers = torch.arange(12, dtype=torch.float64).reshape(6, 2)
    values.values.copy_(numbers)
    preferences.values.copy_(numbers)
    state = torch.randint(6, shape, generator=torch.Generator().manual_seed(0))
    assert values(state).shape == (*shape, 2)
    assert values(state).tolist() == numbers[state].tolist()
    assert preferences(state).tolist() == (numbers[state] / 2).tolist()


def test_a_pair_that_comes_twice_is_moved_twice():
    table = ActionValueTable(3, 2, 1.0)
    state, action = torch.tensor([2, 0, 2, 2]), torch.tensor([1, 0, 1, 0])
    table.add(state, action, torch.tensor([0.5, 3.0, 0.25, -2.0], dtype=torch.float64))
    assert table.values.tolist() == [[4.0, 1.0], [1.0, 1.0], [-1.0, 1.75]]


def test_steps_of_any_shape_and_type():
    table = PreferenceTable(2, 2, 0.0)
    state = torch.tensor([[0, 1], [0, 0]])
    table.add(state, 1 - state, torch.tensor([[1, 2], [3, 4]]))
    assert table.values.tolist() == [[0.0, 8.0], [2.0, 0.0]]
    table.add(torch.tensor(1), torch.tensor(1), torch.tensor(0.5))
    assert table.values.tolist() == [[0.0, 8.0], [2.0, 0.5]]


def test_what_a_table_gave_stays_as_it_was():
    table = ActionValueTable(2, 2)
    before = table(torch.tensor([0, 1]))
    table.add(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([1.0, 1.0]))
    assert not before.any()
