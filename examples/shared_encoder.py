"""An encoder that actor and critic share, trained by TorchRL's own PPO loss, on CartPole-v1.

The encoder is a TensorDictModule that writes `features`; a stock module could stand in its place, and in the heads'.
`rlpipe train examples/shared_encoder.py --seeds 0-4`: 500 on each, at random 22.
"""

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.objectives import ClipPPOLoss

from rlpipe import GAE, MLP, EnvConfig, Pipeline, SyncDataCollector, gradient_step, make_env, on_policy
from rlpipe.modules import CategoricalActor, Critic


@dataclass(frozen=True)
class Config:
    env_id: str = "CartPole-v1"
    seed: int = 0
    total_frames: int = 40_960
    lr: float = 2e-3


class Policy(TensorDictSequential):
    def get_dist(self, batch):
        encoder, actor = self
        return actor.get_dist(encoder(batch))


def build(config):
    env = make_env(EnvConfig(config.env_id, num_envs=16), seed=config.seed)
    encoder = TensorDictModule(MLP(4, None, (64,), activation="tanh"), in_keys=["observation"], out_keys=["features"])
    policy = Policy(encoder, CategoricalActor(MLP(64, 2, (64,)), env.action_spec, in_keys=["features"]))
    critic = TensorDictSequential(encoder, Critic(MLP(64, 1, (64,)), in_keys=["features"]))
    # values reach 100, and their gradient would drown the policy's in the encoder
    loss = ClipPPOLoss(policy, critic, normalize_advantage=True, critic_coeff=0.01, loss_critic_type="l2")
    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=config.lr), max_norm=0.5)
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=128)
    learn = on_policy(GAE(critic), buffer, update, epochs=4)
    collector = SyncDataCollector(env, policy, frames_per_batch=1024, total_frames=config.total_frames)
    return Pipeline(collector, learn, policy)
