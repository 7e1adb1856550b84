"""Recurrent policies in the algorithms: against plain PyTorch, cell by cell, and what is drawn from a batch."""

import copy
import itertools

import pytest
import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import Categorical

from rlpipe import run_recipe
from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, A2CLoss
from rlpipe.modules import CategoricalActor, Critic, Memory, WholeEpisodes
from rlpipe.pipelines.algorithms import a2c, ppo, reinforce
from rlpipe.pipelines.replay.episodes import EpisodeBuffer

SMALL = {
    "num_envs": 3,
    "rollout_steps": 14,
    "hidden": (6,),
    "recurrent_size": 4,
    "max_episode_steps": 12,
    "total_frames": 10_000,
    "lr_schedule": "constant",
    "max_grad_norm": 0.1,
    "entropy_coefficient": 0.02,
    "value_coefficient": 0.3,
}
PPO = {"minibatch_size": 28, "epochs": 2}


class Plain(nn.Module):
    """The networks of a loss with PyTorch's cell; of one linear layer each, but for ours."""

    def __init__(self, loss):
        super().__init__()
        held = copy.deepcopy(loss)
        memory, actor = held.actor.module
        memory = memory.memory if isinstance(memory, WholeEpisodes) else memory
        assert isinstance(memory, Memory)
        assert isinstance(actor, CategoricalActor)
        cell = nn.GRUCell if memory.kind == "gru" else nn.LSTMCell
        self.trunk, self.cell = memory.network, cell(6, 4)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, memory.layer.get_parameter(f"{name}_l0"))
        self.policy, self.value = actor.network, None
        if held.critic is not None:
            assert isinstance(held.critic.module[1], Critic)
            self.value = held.critic.module[1].network

    def forward(self, observation, first, states):
        """Features `[n, T, H]`, and the state after each step."""
        found, kept = [], []
        state = [each[:, 0, 0] for each in states]
        for step in range(observation.shape[1]):
            state = [torch.where(first[:, step], 0.0, each) for each in state]
            features = self.trunk(observation[:, step])
            state = self.cell(features, state[0] if len(state) == 1 else tuple(state))
            state = [state] if isinstance(state, torch.Tensor) else list(state)
            found.append(state[0])
            kept.append(state)
        return torch.stack(found, 1), kept


def read(batch):
    states = [batch[key] for key in ("recurrent_state", "recurrent_state_h", "recurrent_state_c") if key in batch]
    return batch["observation"], batch["is_init"], states


def advantages(plain, batch, gamma, lmbda):
    """Generalized advantage estimation, one environment and step after the other."""
    with torch.no_grad():
        features, states = plain(*read(batch))
        values = plain.value(features).squeeze(-1)
        found = torch.zeros(batch.shape)
        for index in range(batch.shape[0]):
            after = 0.0
            for step in reversed(range(batch.shape[1])):
                now = batch[index, step]["next"]
                if now["done"] or step == batch.shape[1] - 1:
                    beyond = [each[index] for each in states[step]]
                    seen = plain.trunk(now["observation"])
                    beyond = plain.cell(seen, beyond[0] if len(beyond) == 1 else tuple(beyond))
                    value = plain.value(beyond if isinstance(beyond, torch.Tensor) else beyond[0])
                    value = 0.0 if now["terminated"] else value.item()
                else:
                    value = values[index, step + 1].item()
                after = 0.0 if now["done"] else after
                delta = now["reward"].item() + gamma * value - values[index, step].item()
                after = delta + gamma * lmbda * after
                found[index, step] = after
    return found, values


def built(module, recurrent, **changes):
    known = {name: value for name, value in {**SMALL, **PPO}.items() if name in module.Config.__dataclass_fields__}
    return module.build(module.Config(**{**known, "recurrent": recurrent, **changes}))


def minibatches_of(pipeline):
    """The minibatches from which the loss learns from now on."""
    seen = []
    pipeline.state["loss"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    return seen


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_advantages_are_those_of_a_loop_at_cuts_and_at_the_end_of_the_batch(recurrent):
    pipeline = built(ppo, recurrent, num_envs=6)
    batch = list(itertools.islice(pipeline.collector, 3))[-1]
    loss = pipeline.state["loss"]
    expected, values = advantages(Plain(loss), batch, 0.9, 0.8)
    found = GAE(loss.critic, gamma=0.9, lmbda=0.8)(batch)
    torch.testing.assert_close(found["advantage"].squeeze(-1), expected)
    torch.testing.assert_close(found["state_value"].squeeze(-1), values)
    assert batch["next", "truncated"].any()
    assert batch["next", "terminated"].any()
    assert not batch["next", "done"][:, -1].all()
    pipeline.close()


def plain_losses(plain, minibatch, module):
    """The total of equation 9 of PPO's paper, or of A2C."""
    features, _ = plain(*read(minibatch))
    log_probs = plain.policy(features).log_softmax(-1)
    log_prob = log_probs.gather(-1, minibatch["action"][..., None]).squeeze(-1)
    advantage = minibatch["advantage"].squeeze(-1)
    advantage = standardized(advantage)
    gain = log_prob * advantage
    if module is ppo:
        ratio = (log_prob - minibatch["action_log_prob"]).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.7, 1.3) * advantage)
    value = (plain.value(features) - minibatch["value_target"]).square().mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    return -gain.mean() + 0.3 * value - 0.02 * entropy


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
@pytest.mark.parametrize("module", [ppo, a2c])
def test_an_update_is_that_of_a_plain_loop(module, recurrent):
    pipeline = built(module, recurrent)
    loss, seen = pipeline.state["loss"], minibatches_of(pipeline)
    plain, group = Plain(loss), pipeline.state["optimizer"].param_groups[0]
    optimizer = torch.optim.Adam(plain.parameters(), lr=group["lr"], eps=group["eps"])
    pipeline.learn(next(iter(pipeline.collector)))
    assert len(seen) == (4 if module is ppo else 1)
    before = [each.clone() for each in plain.parameters()]
    for minibatch in seen:
        optimizer.zero_grad()
        plain_losses(plain, minibatch, module).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
    learned = Plain(loss)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(learned.get_parameter(name), parameter, rtol=0, atol=1e-6)
    assert all((one - other).abs().max() > 1e-4 for one, other in zip(before, plain.parameters(), strict=True))
    pipeline.close()


@pytest.mark.parametrize("options", [{}, {"baseline": True}, {"baseline": True, "normalize": "episode"}])
@pytest.mark.parametrize("each", [False, True])
def test_reinforce_learns_as_a_plain_loop_over_episodes(each, options):
    pipeline = built(reinforce, "gru", update_each_episode=each, **options)
    loss = pipeline.state["loss"]
    plain, group = Plain(loss), pipeline.state["optimizer"].param_groups[0]
    optimizer = torch.optim.Adam(plain.parameters(), lr=group["lr"], eps=group["eps"])
    keys = ["observation", "is_init", "recurrent_state", "action", ("next", "reward")]
    episodes = EpisodeBuffer(keys, num_envs=3)
    for _, batch in zip(range(2), pipeline.collector, strict=False):
        ended = episodes.extend(batch.clone())
        assert len(ended) > 2
        for together in [[one] for one in ended] if each else [ended]:
            optimizer.zero_grad()
            reinforce_loss(plain, together, **options).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            optimizer.step()
        pipeline.learn(batch)
    learned = Plain(loss)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(learned.get_parameter(name), parameter, rtol=0, atol=1e-6)
    pipeline.close()


def reinforce_loss(plain, episodes, baseline=False, normalize="batch"):
    """The total of a gradient step from whole episodes."""
    log_probs, weights, values, targets, entropies = [], [], [], [], []
    for episode in episodes:
        features, _ = plain(*read(episode.unsqueeze(0)))
        every = plain.policy(features[0]).log_softmax(-1)
        log_probs.append(every.gather(-1, episode["action"][:, None]).squeeze(-1))
        entropies.append(-(every.exp() * every).sum(-1))
        to_go, target = 0.0, torch.zeros(len(episode))
        for step in reversed(range(len(episode))):
            to_go = target[step] = episode["next", "reward"][step, 0] + 0.99 * to_go
        weight = target
        if baseline:
            values.append(plain.value(features[0]).squeeze(-1))
            with torch.no_grad():
                # from the states at collection
                known = plain.cell(plain.trunk(episode["observation"]), episode["recurrent_state"].squeeze(1))
                weight = target - plain.value(known).squeeze(-1)
        weights.append(standardized(weight) if normalize == "episode" else weight)
        targets.append(target)
    weight = torch.cat(weights)
    weight = standardized(weight) if normalize == "batch" else weight
    total = -(torch.cat(log_probs) * weight).mean() - 0.02 * torch.cat(entropies).mean()
    return total + 0.3 * (torch.cat(values) - torch.cat(targets)).square().mean() if baseline else total


def standardized(x):
    return (x - x.mean()) / (x.std(correction=0) + 1e-8)


@pytest.mark.parametrize(("num_envs", "sizes"), [(1, [1]), (2, [2]), (3, [2, 1]), (5, [2, 2, 1])])
def test_minibatches_are_whole_environments(num_envs, sizes):
    changes = {"minibatch_size": 14} if num_envs == 1 else {}
    pipeline = built(ppo, "gru", num_envs=num_envs, **changes)
    seen = minibatches_of(pipeline)
    batch = next(iter(pipeline.collector))
    pipeline.learn(batch)
    assert [each.shape for each in seen] == [(size, 14) for size in sizes] * 2
    for epoch in (seen[: len(sizes)], seen[len(sizes) :]):
        drawn = torch.cat([each["observation"] for each in epoch])
        places = [[bool((row == of).all()) for of in batch["observation"]].index(True) for row in drawn]
        assert sorted(places) == list(range(num_envs))
    pipeline.close()


def test_a_memory_is_run_once_for_actor_and_critic():
    for module in (ppo, a2c, reinforce):
        options = {"baseline": True} if module is reinforce else {}
        pipeline = built(module, "gru", num_envs=2, **options)
        batch, runs = next(iter(pipeline.collector)), []
        loss = pipeline.state["loss"]
        memory = next(each for each in loss.modules() if isinstance(each, Memory))
        steps = []
        loss.register_forward_pre_hook(lambda _, __, runs=runs, steps=steps: steps.append(len(runs)))
        loss.register_forward_hook(lambda _, __, ___, runs=runs, steps=steps: steps.append(len(runs)))
        memory.network.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        pipeline.learn(batch)
        assert steps[1] - steps[0] == 1, module
        pipeline.close()


def test_values_over_sequences_need_their_own_minibatches():
    with pytest.raises(ConfigError, match="a minibatch has whole sequences of 14 steps, .* such as 14"):
        ppo.Config(**{**SMALL, "recurrent": "gru", "minibatch_size": 20})
    for device, name in (("cpu", "compile"), ("cuda", "cuda_graphs")):
        with pytest.raises(ConfigError, match=f"{name} is True with recurrent 'gru'"):
            reinforce.Config(**{**SMALL, "recurrent": "gru", "device": device, name: True})


def test_a_size_without_a_memory_is_said_to_change_nothing(tmp_path, caplog):
    short = {"total_frames": 64, "rollout_steps": 8, "num_envs": 8, "minibatch_size": 64, "final_eval_episodes": 1}
    quiet = [{"recurrent": None}, {"recurrent": "gru", "recurrent_size": 8}]
    for place, options in enumerate([*quiet, {"recurrent": None, "recurrent_size": 8}]):
        assert not caplog.messages
        run_recipe("ppo/positions", folder=tmp_path / str(place), loggers=(), **short, **options)
    assert caplog.messages == ["rlpipe: --recurrent-size changes nothing without a memory: --recurrent gru or lstm"]


def test_two_memories_of_one_state_are_refused():
    def remembering(module, **state):
        return TensorDictSequential(Memory(nn.Linear(2, 3), 3, 3, "gru", **state), module)

    actor = remembering(CategoricalActor(nn.Linear(3, 2), Categorical(2, (2,)), in_keys=["memory"]))
    critic = Critic(nn.Linear(3, 1), in_keys=["memory"])
    A2CLoss(actor, TensorDictSequential(actor[0], critic))
    A2CLoss(actor, remembering(critic, state="second"))
    with pytest.raises(ValueError, match="two memories with one state, 'recurrent_state'"):
        A2CLoss(actor, remembering(critic))
