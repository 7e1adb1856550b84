"""PPO with `target_kl`: what a plain loop does that leaves the epochs as Stable-Baselines3 does; and exact resuming."""

import dataclasses
import json

import pytest
import torch
from comparing import fingerprint
from resuming import go, killed, make_config

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.checkpoints.older import completed, telling
from rlpipe.pipelines.config.json_form import config_from_json

SMALL = {"num_envs": 4, "rollout_steps": 32, "minibatch_size": 32, "epochs": 5, "total_frames": 1280, "lr": 0.02}


def learn_as_sb3_does(config, loss, optimizer, batch, order):
    """Learn from a batch; returns the number of steps, and the mean of `approx_kl` over the minibatches looked at."""
    steps, seen = 0, []
    flat = GAE(loss.critic, gamma=config.gamma, lmbda=config.lmbda)(batch.clone()).reshape(-1)
    for _ in range(config.epochs):
        carries_on = True
        for places in torch.randperm(len(flat), generator=order).split(config.minibatch_size):
            terms = loss(flat[places])
            seen.append(terms["approx_kl"].item())
            if config.target_kl is not None and seen[-1] > 1.5 * config.target_kl:
                carries_on = False
                break
            optimizer.zero_grad()
            (terms["loss_policy"] + terms["loss_value"] + terms["loss_entropy"]).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), config.max_grad_norm)
            optimizer.step()
            steps += 1
        if not carries_on:
            break
    return steps, sum(seen) / len(seen)


@pytest.mark.parametrize("target_kl", [0.004, 0.05, None])
def test_it_is_the_loop_of_stable_baselines(target_kl):
    config = ppo.Config(**SMALL, target_kl=target_kl)
    pipeline, other = ppo.build(config), ppo.build(config)
    loss = other.state["loss"]
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.lr, eps=config.adam_eps, fused=True)
    numbers = []
    for number, batch in enumerate(pipeline.collector):
        order = torch.Generator()
        order.set_state(pipeline.state["random"].generator("replay").get_state())
        optimizer.param_groups[0]["lr"] = config.lr * (1 - number / config.batches)
        steps, mean = learn_as_sb3_does(config, loss, optimizer, batch, order)
        scalars = pipeline.learn(batch)
        assert (scalars["updates"], scalars["approx_kl"].item()) == (steps, pytest.approx(mean, rel=1e-2, abs=1e-6))
        assert ("epochs" in scalars) == (target_kl is not None)
        assert target_kl is None or scalars["epochs"] == steps / 4
        numbers.append(steps)
        own = [each.detach() for each in pipeline.state["loss"].parameters()]
        torch.testing.assert_close(own, [each.detach() for each in loss.parameters()], rtol=1e-3, atol=1e-4)
    pipeline.close()
    other.close()
    assert (min(numbers) < 20) == (target_kl is not None)
    assert target_kl != 0.05 or max(numbers) == 20


def test_recorded_gradients_are_skipped_where_autograds_are(monkeypatch):
    def run(execution):
        monkeypatch.setattr(ppo.Config, "execution", execution)
        pipeline = ppo.build(ppo.Config(**SMALL, target_kl=0.02))
        scalars = [pipeline.learn(batch).to_dict() for batch in pipeline.collector]
        pipeline.close()
        return scalars, [each.tolist() for each in pipeline.state["loss"].parameters()]

    eager = run("eager")
    assert run("recorded") == eager
    assert len({each["updates"].item() for each in eager[0]}) > 2


def test_it_resumes_to_the_bit(tmp_path):
    config = make_config("ppo", "cartpole", lr=0.02, epochs=4, target_kl=0.02)
    go(tmp_path / "whole", "ppo", config)
    killed(tmp_path / "cut", "ppo", config, "learn", 8)
    go(tmp_path / "cut", "ppo", config)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    lines = map(json.loads, (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    assert min(each["epochs"] for each in lines) < 4


def test_configs_of_before_are_without_it():
    config = json.loads(json.dumps(dataclasses.asdict(ppo.Config())))
    old = {name: value for name, value in config.items() if name != "target_kl"}
    assert config_from_json(ppo.Config, completed(old)) == ppo.Config()
    assert telling(config) == telling(old)
    assert telling({**config, "target_kl": 0.02}) != telling(old)
    assert "target_kl" not in completed({"env_id": "CartPole-v1", "clip_reward": 1.0})


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_limits(wrong):
    with pytest.raises(ConfigError, match="target_kl is"):
        ppo.Config(target_kl=wrong)
