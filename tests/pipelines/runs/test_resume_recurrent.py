"""A composed algorithm with a recurrent network of TorchRL's: killed and resumed, it is as never killed."""

import functools

import pytest
import torch
from comparing import fingerprint
from resuming import batches, go, killed, make_config
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

from rlpipe.losses import GAE, ClipPPOLoss
from rlpipe.modules import CategoricalActor, Critic
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.updates.learning import on_policy
from rlpipe.pipelines.updates.update import gradient_step


def build(kind, config):
    """PPO whose actor and critic have one recurrent network."""
    torch.manual_seed(0)
    env, states = make_env(config.env, seed=0), ["state"] if kind is GRUModule else ["state", "cell"]
    features = env.observation_spec["observation"].shape[-1]
    written = ["memory", *(("next", each) for each in states)]
    memory = kind(features, 8, in_keys=["observation", *states], out_keys=written)
    draws, order = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    head = CategoricalActor(nn.Linear(8, env.action_spec.space.n), env.action_spec, draws, in_keys=["memory"])
    actor = TensorDictSequential(memory, head)
    critic = TensorDictSequential(memory, Critic(nn.Linear(8, 1), in_keys=["memory"]))
    loss = ClipPPOLoss(actor, critic)
    step = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=3e-3, eps=1e-5))

    def update(minibatch):
        with set_recurrent_mode(True):
            return step(minibatch)

    buffer = ReplayBuffer(
        storage=LazyTensorStorage(4), sampler=SamplerWithoutReplacement(), batch_size=2, generator=order
    )
    learn = on_policy(GAE(critic), buffer, update, epochs=2, keys=loss.in_keys, sequences=True)
    collector = SyncDataCollector(env, actor, frames_per_batch=128, total_frames=8 * 128)
    assert collector.is_lean()
    return Pipeline(collector, learn, actor)


@pytest.mark.parametrize("kind", [GRUModule, LSTMModule])
def test_a_network_of_torchrls_is_resumed_to_the_bit(kind, tmp_path):
    config, make = make_config("ppo", "gru"), functools.partial(build, kind)
    for share in (0.6, 0.4):
        killed(tmp_path / "cut", "ppo", config, "learn", int(share * batches(config)), make=make)
    go(tmp_path / "cut", "ppo", config, make=make)
    go(tmp_path / "whole", "ppo", config, make=make)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
