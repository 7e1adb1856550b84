"""Noise in runs: the same in one process and in others, and resumed to the bit."""

import multiprocessing
from dataclasses import replace

import pytest
import torch
from comparing import fingerprint
from forked import spawning_quickly
from resuming import go, killed, make_config
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential

from rlpipe.modules import MLP, DeterministicActor, GaussianNoise, Linear, OrnsteinUhlenbeck
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up

KINDS = {"gaussian": GaussianNoise, "lasting": OrnsteinUhlenbeck}


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with spawning_quickly():
        yield
    assert not multiprocessing.active_children()


def make(kind):
    """The builder of something whose policy follows what its noise did."""

    def build(config):
        _, seeds, env = set_up(config)
        with seeds.torch_seeded("initialization"):
            actor = DeterministicActor(MLP(3, 1, (8,)), env.action_spec)
        noise = KINDS[kind](env.action_spec, Linear(0.5, 0.1, frames=1500), seeds.generator("exploration"))
        optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)

        def learn(batch):
            optimizer.zero_grad()
            loss = (actor.compute(batch["observation"])[0] - batch["action"]).square().mean()
            loss.backward()
            optimizer.step()
            noise.advance(batch)
            return TensorDict({"loss_x": loss.detach(), "updates": torch.tensor(1)})

        return make_pipeline(config, env, TensorDictSequential(actor, noise), learn, seeds, optimizer=optimizer)

    return build


def small(env_id="Pendulum-v1", **changes):
    # longer episodes than batches, which the noise must outlast
    config = make_config("a2c", "acrobot", env_id=env_id, total_frames=1800, checkpoint_every=400, eval_every=500)
    return replace(config, num_envs=4, rollout_steps=16, max_episode_steps=50, **changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "rlpipe/TorchPendulum-v0"])
def test_a_run_with_noise_goes_on_to_the_bit(kind, env_id, tmp_path):
    config = small(env_id)
    go(tmp_path / "whole", "a2c", config, make=make(kind))
    killed(tmp_path / "cut", "a2c", config, "learn", 18, make=make(kind))
    go(tmp_path / "cut", "a2c", config, make=make(kind))
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize(
    ("kind", "env_id"), [("gaussian", "Pendulum-v1"), ("lasting", "rlpipe/TorchPendulum-v0")], ids=lambda each: each
)
def test_one_collector_in_another_process_has_the_same_noise(kind, env_id, tmp_path):
    config = small(env_id)
    go(tmp_path / "local", "a2c", config, make=make(kind))
    go(tmp_path / "processes", "a2c", replace(config, collector="processes"), make=make(kind))
    local, multi = fingerprint(tmp_path / "local"), fingerprint(tmp_path / "processes")
    # a list of them there
    local.pop("environments"), multi.pop("environments")
    assert multi == local


def test_two_collectors_with_lasting_noise_go_on_to_the_bit(tmp_path):
    config = small("rlpipe/TorchPendulum-v0", collector="processes", num_collectors=2)
    batches = []

    def watch(pipeline):
        actor, learn = pipeline.policy[0], pipeline.learn

        def learn_and_keep(batch):
            (greedy,) = actor.compute(batch["observation"])
            batches.append((batch["step_count"].squeeze(-1), (batch["action"] - greedy).detach().squeeze(-1)))
            return learn(batch)

        pipeline.learn = learn_and_keep

    go(tmp_path / "whole", "a2c", config, make=make("lasting"), during=watch)
    killed(tmp_path / "cut", "a2c", config, "learn", 18, make=make("lasting"))
    go(tmp_path / "cut", "a2c", config, make=make("lasting"))
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    # between the last step of a batch and the first of the next, noise changes by one step, 0.1 at first
    whole, most = torch.cat([noise for _, noise in batches], 1), 0.1
    first = torch.arange(16, whole.shape[1], 16)
    counts = torch.cat([count for count, _ in batches], 1)[:, first]
    changes = (whole[:, first] - whole[:, first - 1])[counts > 0]
    assert len(changes) > 80
    assert changes.square().mean().sqrt() < most
    assert whole[:, first][counts > 16].square().mean().sqrt() > 2 * most
    # each environment has noise of its own
    assert len(whole[:, 0].unique()) == 4
