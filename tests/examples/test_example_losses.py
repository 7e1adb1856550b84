"""The losses of the examples by hand, and what trains them."""

import sys
from types import SimpleNamespace

import pytest
import torch
from example_files import load
from tensordict import TensorDict

from rlpipe.modules import MLP, CategoricalActor, Critic
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.updates.update import gradient_step


def test_a_recorded_loss_is_the_same_to_the_bit():
    ends = []
    for execution in ("eager", "recorded"):
        loss, batch = make_kl_loss()
        update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=0.01), execution=execution)
        torch.manual_seed(1)
        for number in range(30):
            if number % 5 == 0:
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
