"""The losses of the examples by hand, and what trains them."""

import sys
from types import SimpleNamespace

import pytest
import torch
from example_files import load
from tensordict import TensorDict

from rlpipe.losses import frozen_copy
from rlpipe.modules import MLP, ActionValueCritic, CategoricalActor, Critic, DeterministicActor, GaussianActor
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.updates.update import gradient_step


def sac_batch(size=16):
    draw = torch.Generator().manual_seed(0)
    observation, after, action = (torch.randn(size, n, generator=draw) for n in (3, 3, 1))
    reward, terminated = torch.randn(size, 1, generator=draw), torch.rand(size, 1, generator=draw) < 0.5
    following = TensorDict(observation=after, reward=reward, terminated=terminated, batch_size=[size])
    return TensorDict(observation=observation, action=action.clamp(-2, 2), next=following, batch_size=[size])


def make_sac_loss():
    torch.manual_seed(0)
    spec = make_env(EnvConfig("Pendulum-v1", 4), seed=0).action_spec
    actor = GaussianActor(MLP(3, 2, (16,)), spec, state_dependent_std=True)
    critics = torch.nn.ModuleList(ActionValueCritic(MLP(4, 1, (16,)), spec) for _ in range(2))
    return load("sac").SACLoss(actor, critics)


def test_each_of_the_three_losses_reaches_its_own_parameters_only():
    loss = make_sac_loss()
    owners = {"loss_q": "critics.", "loss_actor": "actor.", "loss_alpha": "log_alpha"}
    for term, owner in owners.items():
        loss.zero_grad()
        loss(sac_batch())[term].backward()
        reached = {name for name, each in loss.named_parameters() if each.grad is not None and each.grad.any()}
        assert reached == {name for name, _ in loss.named_parameters() if name.startswith(owner)}, term


def test_the_target_of_q_by_hand():
    """What is terminal has no value; a truncation has, since nothing but `terminated` is read."""
    loss, batch = make_sac_loss(), sac_batch()
    with torch.no_grad():
        loss.log_alpha.fill_(-1.0)
        torch.manual_seed(1)
        action, log_prob = loss.actor.get_dist(batch["next"]).rsample_and_log_prob()
        values = [each.compute(batch["next", "observation"], action)[0].squeeze(-1) for each in loss.targets]
        soft = torch.minimum(*values) - torch.tensor(-1.0).exp() * log_prob
        reward, terminated = (batch["next", key].squeeze(-1) for key in ("reward", "terminated"))
        target = torch.where(terminated, reward, reward + 0.99 * soft)
        errors = [each.compute(batch["observation"], batch["action"])[0].squeeze(-1) - target for each in loss.critics]
        torch.manual_seed(1)
        torch.testing.assert_close(loss(batch)["loss_q"], sum(error.square().mean() for error in errors))


def test_one_optimizer_on_the_sum_is_three_optimizers():
    together, apart = make_sac_loss(), make_sac_loss()
    update = gradient_step(together, torch.optim.Adam(together.parameters(), lr=0.01))
    parts = {"loss_q": [*apart.critics.parameters()], "loss_actor": [*apart.actor.parameters()]}
    parts = {**parts, "loss_alpha": [apart.log_alpha]}
    optimizers = {term: torch.optim.Adam(parameters, lr=0.01) for term, parameters in parts.items()}
    for seed in range(3):
        torch.manual_seed(seed)
        update(sac_batch())
        torch.manual_seed(seed)
        terms = apart(sac_batch())
        for term, optimizer in optimizers.items():
            optimizer.zero_grad()
            terms[term].backward()
        for optimizer in optimizers.values():
            optimizer.step()
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["sac", "ppo_kl"])
def test_a_recorded_loss_is_the_same_to_the_bit(name):
    ends = []
    for execution in ("eager", "recorded"):
        if name == "sac":
            loss, batch = make_sac_loss(), sac_batch()
        else:
            loss, batch = make_kl_loss()
        update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=0.01), execution=execution)
        torch.manual_seed(1)
        for number in range(30):
            if name == "ppo_kl" and number % 5 == 0:
                loss.beta *= 2.0
            update(batch)
        ends.append(torch.cat([each.detach().flatten() for each in loss.state_dict().values()]))
    assert torch.equal(*ends)


def make_kl_loss():
    torch.manual_seed(0)
    spec = make_env(EnvConfig("CartPole-v1", 4), seed=0).action_spec
    actor, critic = CategoricalActor(MLP(4, 2, (16,)), spec), Critic(MLP(4, 1, (16,)))
    batch = TensorDict(observation=torch.randn(16, 4), batch_size=[16])
    batch = actor(batch).detach().update({"advantage": torch.randn(16, 1), "value_target": torch.randn(16, 1)})
    return load("ppo_kl").KLPenaltyPPOLoss(actor, critic), batch


@pytest.mark.parametrize(("share", "beta"), [(1.6, 2.0), (1.4, 1.0), (1 / 1.4, 1.0), (1 / 1.6, 0.5)])
def test_the_coefficient_doubles_above_its_target_and_halves_below(share, beta):
    """Section 4 of the paper: by 1.5 times the target, and by its share of 1.5."""
    example = load("ppo_kl")
    kl = float(torch.tensor(0.1).expm1() - 0.1)
    pipeline = example.build(example.Config(target_kl=kl / share))
    (batch,) = [each for each, _ in zip(pipeline.collector, range(1), strict=False)]
    batch["action_log_prob"] = pipeline.policy.get_dist(batch).log_prob(batch["action"]).detach() - 0.1
    moment = SimpleNamespace(stage="learned", batch=batch, scalars={})
    pipeline.listeners[0](moment)
    pipeline.close()
    assert moment.scalars["beta"] == pipeline.learn.update.loss.beta == beta


def td3_parts():
    torch.manual_seed(0)
    spec = make_env(EnvConfig("Pendulum-v1", 4), seed=0).action_spec
    critics = torch.nn.ModuleList(ActionValueCritic(MLP(4, 1, (16,)), spec) for _ in range(2))
    online = torch.nn.ModuleDict({"actor": DeterministicActor(MLP(3, 1, (16,)), spec), "critics": critics})
    return load("td3"), {"online": online, "target": frozen_copy(online)}


def test_td3_by_hand():
    """The smaller of two targets at a noisy action, and nothing beyond what is terminal."""
    example, networks = td3_parts()
    batch, target = sac_batch(), networks["target"]
    torch.manual_seed(1)
    noise = (0.2 * torch.randn(16, 1)).clamp(-0.5, 0.5) * 2
    after = batch["next"]
    action = (2 * torch.tanh(target.actor.network(after["observation"])) + noise).clamp(-2, 2)
    values = [each.compute(after["observation"], action)[0] for each in target.critics]
    value = torch.where(after["terminated"], after["reward"], after["reward"] + 0.99 * torch.minimum(*values))
    critics = networks["online"].critics
    errors = [each.compute(batch["observation"], batch["action"])[0] - value for each in critics]
    torch.manual_seed(1)
    loss = example.CriticLoss(networks)(batch)["loss_critics"]
    torch.testing.assert_close(loss, sum(error.square().mean() for error in errors))


def test_td3_trains_the_actor_alone_by_its_loss():
    example, networks = td3_parts()
    example.ActorLoss(networks)(sac_batch())["loss_actor"].backward()
    online = networks["online"]
    assert all(each.grad is not None for each in online.actor.parameters())
    assert all(each.grad is None for each in online.critics.parameters())


def test_the_bonus_of_rnd_does_not_end_with_an_episode():
    """What the second critic is to learn goes on where the next episode begins."""
    example = load("rnd")
    pipeline = example.build(example.Config(total_frames=1024, rollout_steps=8))
    batch = next(iter(pipeline.collector))
    batch["next", "done"][:] = batch["next", "terminated"][:] = True
    learned = pipeline.learn.advantage(batch)
    pipeline.close()
    assert not learned["next", "bonus_done"].any()
    # without a next state, the value of a reward that ends an episode would be that reward
    torch.testing.assert_close(learned["value_target"], batch["next", "reward"])
    assert (learned["bonus_value_target"] - learned["next", "bonus_reward"]).abs().min() > 0


def test_without_optuna_its_example_says_so_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r'optuna_search.py needs optuna: pip install "rlpipe\[optuna\]"'):
        load("optuna_search")
