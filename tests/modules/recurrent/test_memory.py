"""Memories: their numbers by hand, against TorchRL's modules and PyTorch's layers, and step by step."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import Binary, Composite, Unbounded
from torchrl.modules import set_recurrent_mode

from rlpipe.modules import MLP, Critic, Memory, Network, WholeEpisodes, computed_once, encoder, over_episodes
from rlpipe.modules.recurrent import remembering

KINDS = ["gru", "lstm"]
STATES = {"gru": ["recurrent_state"], "lstm": ["recurrent_state_h", "recurrent_state_c"]}


def column(*numbers):
    return torch.tensor(numbers)[None, :, None]


def sequence(memory, observation, first, **states):
    """What a memory of `[1, T, 1]` observations writes; `first` are the steps that begin an episode."""
    steps = observation.shape[1]
    state = {key: torch.tensor(value).expand(1, steps, 1, 1) for key, value in states.items()}
    starts = torch.zeros(1, steps, 1, dtype=torch.bool)
    starts[0, first] = True
    return memory(TensorDict({"observation": observation, "is_init": starts, **state}, batch_size=[1, steps]))


def made(kind, weights, recurrent, bias):
    memory = Memory(None, 1, 1, kind)
    with torch.no_grad():
        for name, values in (("weight_ih_l0", weights), ("weight_hh_l0", recurrent), ("bias_ih_l0", bias)):
            parameter = memory.layer.get_parameter(name)
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
        memory.layer.bias_hh_l0.zero_()
    return memory


def test_a_gru_by_hand_with_a_reset_in_the_middle():
    # r = 0.5, z = 0.75, n = tanh(x + h)
    memory = made("gru", [0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, math.log(3), 0.0])
    inputs = column(math.atanh(0.8) - 0.4, math.atanh(-0.5) - 0.5, math.atanh(0.6), math.atanh(0.2) - 0.15)
    out = sequence(memory, inputs, [2], recurrent_state=0.4)
    # 0.25 * 0.8 + 0.75 * 0.4, 0.25 * -0.5 + 0.75 * 0.5, 0.25 * 0.6, 0.25 * 0.2 + 0.75 * 0.15
    expected = column(0.5, 0.25, 0.15, 0.1625)
    torch.testing.assert_close(out["memory"], expected)
    torch.testing.assert_close(out["next", "recurrent_state"], expected[..., None])


def test_an_lstm_by_hand_with_a_reset_in_the_middle():
    # i = 0.5, f = 0.75, g = tanh(x + h), o = 0.25
    memory = made("lstm", [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, math.log(3), 0.0, -math.log(3)])
    # 0.75 * 0.4 + 0.5 * 0.5, 0.75 * 0.55 + 0.5 * -0.2, 0.5 * 0.6, 0.75 * 0.3 + 0.5 * 0.8
    cells = column(0.55, 0.3125, 0.3, 0.625)
    hidden = 0.25 * cells.tanh()
    given = column(0.5, -0.2, 0.6, 0.8).atanh()
    inputs = given - column(0.2, hidden[0, 0].item(), 0.0, hidden[0, 2].item())
    out = sequence(memory, inputs, [2], recurrent_state_h=0.2, recurrent_state_c=0.4)
    torch.testing.assert_close(out["memory"], hidden)
    torch.testing.assert_close(out["next", "recurrent_state_h"], hidden[..., None])
    torch.testing.assert_close(out["next", "recurrent_state_c"], cells[..., None])


def batch_of(memory, *shape, features=3, share=0.3):
    """Random entries that a memory reads."""
    draws = torch.Generator().manual_seed(0)
    entries = {key: torch.randn(*shape, 1, memory.size, generator=draws) for key in memory.states}
    entries["observation"] = torch.randn(*shape, features, generator=draws)
    entries["is_init"] = torch.rand(*shape, 1, generator=draws) < share
    return TensorDict(entries, batch_size=shape)


def random_memory(kind, network=None, **options):
    torch.manual_seed(0)
    return Memory(network, 3, 4, kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_torchrls_module_gives_the_same_over_sequences_with_resets(kind):
    memory = random_memory(kind)
    batch = batch_of(memory, 5, 7)
    # TorchRL reads a state at each of them, which is blank in what it collects
    for each in memory.states:
        batch[each][batch["is_init"].squeeze(-1)] = 0.0
    ours = memory(batch.clone())
    with set_recurrent_mode(True):
        theirs = memory.rnn(batch.clone().set("memory", batch["observation"]))
    torch.testing.assert_close(ours["memory"], theirs["memory"])
    # TorchRL writes the state after the last step of an episode only
    for each in memory.states:
        torch.testing.assert_close(ours["next", each][:, -1], theirs["next", each][:, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_torchrls_module_gives_the_same_at_a_step(kind):
    memory = random_memory(kind)
    batch = batch_of(memory, 5)
    ours, theirs = memory(batch.clone()), memory.rnn(batch.clone().set("memory", batch["observation"]))
    for key in memory.out_keys:
        torch.testing.assert_close(ours[key], theirs[key])


@pytest.mark.parametrize("kind", KINDS)
def test_pytorchs_layer_gives_the_same_outputs_and_gradients(kind):
    memory = random_memory(kind).double()
    weights = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gradients(compute):
        batch = batch_of(memory, 5, 7, share=0.0)
        batch.update(batch.exclude("is_init").double())
        inputs = [batch[key].requires_grad_() for key in ["observation", *memory.states]]
        output = compute(batch)
        return output, torch.autograd.grad((output * weights).sum(), [*inputs, *memory.parameters()])

    def theirs(batch):
        before = [batch[each][:, 0].movedim(1, 0).contiguous() for each in memory.states]
        return memory.layer(batch["observation"], before[0] if kind == "gru" else tuple(before))[0]

    (output, found), (expected, others) = gradients(lambda batch: memory(batch)["memory"]), gradients(theirs)
    torch.testing.assert_close(output, expected)
    for one, other in zip(found, others, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_one_after_the_other_are_a_sequence(kind):
    memory = random_memory(kind, MLP(3, None, (3,)))
    batch = batch_of(memory, 5, 7)
    # an episode of its own, and one step, at the very end
    batch["is_init"][0, [0, 6]] = True
    whole = memory(batch.clone())
    states = {each: batch[each][:, 0] for each in memory.states}
    for step in range(7):
        out = memory(batch[:, step].clone().update(states))
        states = {each: out["next", each] for each in memory.states}
        for key in memory.out_keys:
            torch.testing.assert_close(out[key], whole[key][:, step], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_first_state_of_a_sequence_counts_unless_an_episode_begins_there(kind):
    memory = random_memory(kind)
    batch = batch_of(memory, 5, 7, share=0.0)
    batch["is_init"][0, 0] = True
    plain = memory(batch.clone())["memory"]

    def with_state(step):
        other = batch.clone()
        for each in memory.states:
            other[each][:, step] += 1.0
        return memory(other)["memory"]

    assert torch.equal(with_state(slice(1, None)), plain)
    changed = (with_state(0) != plain).any(-1).all(-1)
    assert changed.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_one_environment_without_a_batch_size(kind):
    memory = random_memory(kind)
    batch = batch_of(memory, 5)
    batched = memory(batch.clone())
    for index in range(5):
        out = memory(batch[index].clone())
        for key in memory.out_keys:
            torch.testing.assert_close(out[key], batched[key][index])


def test_more_dimensions_are_refused():
    memory = random_memory("gru")
    with pytest.raises(ValueError, match=r"Memory got a batch \[2, 3, 4\]; expected \[num_envs\] or \[num_envs, T\]"):
        memory(batch_of(memory, 2, 3, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_whole_episodes_are_each_run_from_its_beginning(kind):
    memory = random_memory(kind, MLP(3, None, (3,)))
    batch = batch_of(memory, 9, share=0.0)
    # the first is one whether or not it says so
    batch["is_init"][[1, 6]] = True
    given = batch.clone()
    together = WholeEpisodes(memory)(given)["memory"]
    assert torch.equal(given["is_init"], batch["is_init"])
    found = []
    for steps in batch.split([1, 5, 3]):
        blank = {key: value.expand(1, len(steps), 1, 4) for key, value in memory.blank([1]).items()}
        found.append(memory(steps.unsqueeze(0).clone().update(blank))["memory"][0])
    torch.testing.assert_close(together, torch.cat(found))
    assert WholeEpisodes(memory).in_keys == ["observation", "is_init"]
    assert WholeEpisodes(memory).out_keys == ["memory"]


def test_what_is_padded_gets_no_gradient():
    memory = random_memory("gru")
    batch = batch_of(memory, 9, share=0.0)
    batch["is_init"][[1, 6]] = True
    gradients = []
    for steps in (batch, *batch.split([1, 5, 3])):
        loss = WholeEpisodes(memory)(steps.clone())["memory"].square().sum()
        gradients.append(torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(memory.parameters()))]))
    torch.testing.assert_close(gradients[0], sum(gradients[1:]))


def test_every_memory_of_a_sequence_runs_over_whole_episodes():
    first, second = random_memory("gru"), Memory(None, 4, 4, "gru", state="second", in_keys=["memory"])
    critic = Critic(nn.Linear(4, 1), in_keys=["memory"])
    whole = over_episodes(TensorDictSequential(first, second, critic))
    assert [type(part) for part in whole.module] == [WholeEpisodes, WholeEpisodes, Critic]
    assert {id(each) for each in whole.parameters()} == {
        id(each) for part in (first, second, critic) for each in part.parameters()
    }
    plain = TensorDictSequential(critic)
    assert over_episodes(plain) is plain
    assert over_episodes(critic) is critic


def test_whole_episodes_and_single_steps_are_two_computations():
    memory = random_memory("gru")
    batch = batch_of(memory, 9, share=0.0)
    alone = WholeEpisodes(memory)(batch.clone())["memory"], memory(batch.clone())["memory"]
    for order in (1, -1):
        with computed_once(memory):
            networks = (WholeEpisodes(memory), memory)[::order]
            together = [network(batch.copy())["memory"] for network in networks][::order]
        assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_without_a_memory_a_network_stays_as_it_is():
    critic = Critic(nn.Linear(4, 1))
    assert remembering(None, critic) is critic
    assert remembering(random_memory("gru"), critic).in_keys[:3] == ["observation", "is_init", "recurrent_state"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_memories_of_one_policy_have_two_states(kind):
    first = random_memory(kind, in_keys=["eye"], out_keys=["seen", *(("next", each) for each in STATES[kind])])
    second = random_memory(kind, state="other", in_keys=["ear"])
    policy = TensorDictSequential(first, second)
    batch = batch_of(first, 5).update(batch_of(second, 5))
    batch["eye"], batch["ear"] = batch["observation"], 2 * batch["observation"]
    out = policy(batch)
    assert out["seen"].shape == out["memory"].shape == (5, 4)
    for each in [*first.states, *second.states]:
        assert out["next", each].shape == (5, 1, 4)
    assert not set(first.states) & set(second.states)


def test_keys_are_those_of_its_network_or_those_given():
    assert Memory(None, 3, 4).in_keys == ["observation", "is_init", "recurrent_state"]
    lstm = Memory(None, 3, 4, "lstm", state="s", in_keys=[("seen", "x")])
    assert lstm.in_keys == [("seen", "x"), "is_init", "s_h", "s_c"]
    assert lstm.out_keys == ["memory", ("next", "s_h"), ("next", "s_c")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "rnn"}, "kind of Memory is 'rnn'; allowed are 'gru' and 'lstm'"),
        ({"out_keys": ["memory"]}, "out_keys of Memory are"),
        (
            {"out_keys": ["memory", ("next", "other")]},
            r"the last must be \[\('next', 'recurrent_state'\)\], its states",
        ),
        ({"in_keys": ["a", "b"]}, "need a network that joins them"),
        ({"in_keys": "observation"}, "expected a list of keys"),
    ],
)
def test_wrong_kinds_and_keys_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Memory(None, 3, 4, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_initialization(kind):
    plain = random_memory(kind)
    limit = 1 / math.sqrt(4)
    assert all(each.abs().max() <= limit for each in plain.parameters())
    assert plain.layer.bias_ih_l0.abs().min() > 0
    orthogonal = random_memory(kind, initialization="orthogonal").layer
    torch.testing.assert_close(orthogonal.weight_hh_l0.mT @ orthogonal.weight_hh_l0, torch.eye(4))
    xavier = random_memory(kind, initialization="xavier").layer
    assert xavier.weight_hh_l0.abs().max() <= math.sqrt(6 / sum(xavier.weight_hh_l0.shape))
    for layer in (orthogonal, xavier):
        assert not layer.bias_ih_l0.any()
        assert not layer.bias_hh_l0.any()


def test_actor_and_critic_run_it_once_within_a_loss():
    runs = []
    memory = random_memory("gru", Network(MLP(3, None, (3,))))
    memory.network.register_forward_hook(lambda *_: runs.append(1))
    both = TensorDictSequential(remembering(memory, Critic(nn.Linear(4, 1), in_keys=["memory"])))
    batch = batch_of(memory, 5, 7)
    with computed_once(both):
        for _ in range(2):
            both(batch.clone(recurse=False))
    assert len(runs) == 1
    both(batch.clone(recurse=False))
    assert len(runs) == 2


def test_entries_of_a_dict_and_images_stand_before_it():
    spec = Composite(camera=Unbounded((5, 6, 6, 3), dtype=torch.uint8), touch=Binary(2, (5, 2)), shape=(5,))
    spec = Composite(observation=spec, shape=(5,))
    first = encoder(spec)
    memory = Memory(first, first.features, 4)
    assert memory.in_keys == [("observation", "camera"), ("observation", "touch"), "is_init", "recurrent_state"]
    step = spec.rand()
    blank = {"is_init": torch.ones(5, 1, dtype=torch.bool), **memory.blank([5])}
    one = memory(step.clone().update(blank))
    sequences = torch.stack([step.clone().update(blank)] * 3, 1)
    many = memory(sequences)
    torch.testing.assert_close(many["memory"], one["memory"][:, None].expand(5, 3, 4))


def test_what_the_network_cannot_take_is_named():
    memory = random_memory("gru", nn.Linear(2, 3))
    with pytest.raises(ValueError, match="the network of Memory cannot take key 'observation' of shape"):
        memory(batch_of(memory, 5))
