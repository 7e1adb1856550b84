"""PPO with a penalty on the KL divergence instead of the clip: a custom loss made from parts, and a listener.

Schulman et al. 2017, equation 8, with the adaptive coefficient of section 4, which the listener sets after each batch.
`rlpipe train examples/ppo_kl.py --seeds 0-4`: CartPole-v1 252 to 500, at random 22.
"""

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.objectives import LossModule

from rlpipe import EnvConfig, Pipeline, SyncDataCollector, gradient_step, make_env, on_policy
from rlpipe.losses import GAE, column, functional, policy_terms, scalar, standardized, value_terms
from rlpipe.modules import MLP, CategoricalActor, Critic


@dataclass(frozen=True)
class Config:
    env_id: str = "CartPole-v1"
    seed: int = 0
    total_frames: int = 81_920
    target_kl: float = 0.02


class KLPenaltyPPOLoss(LossModule):
    def __init__(self, actor, critic):
        super().__init__()
        self.actor, self.critic = actor, critic
        self.register_buffer("beta", torch.tensor(1.0))
        self.in_keys = ["observation", "action", "action_log_prob", "advantage", "value_target"]

    def forward(self, batch):
        log_prob, entropy = policy_terms(self.actor, batch)
        old_log_prob, advantage = scalar(batch, "action_log_prob"), standardized(column(batch, "advantage"))
        loss_policy = functional.surrogate(log_prob, old_log_prob, advantage) - 0.01 * entropy
        loss_kl = self.beta * functional.approximate_kl(log_prob, old_log_prob)
        value_loss, _ = value_terms(self.critic, batch)
        return TensorDict(loss_policy=loss_policy, loss_kl=loss_kl, loss_value=0.5 * value_loss).mean()


def build(config):
    env = make_env(EnvConfig(config.env_id, num_envs=16), seed=config.seed)
    actor, critic = CategoricalActor(MLP(4, 2, (64,)), env.action_spec), Critic(MLP(4, 1, (64,)))
    loss = KLPenaltyPPOLoss(actor, critic)
    update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=3e-3), max_norm=0.5, execution="recorded")
    buffer = ReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=128)
    learn = on_policy(GAE(critic), buffer, update, epochs=4)

    def adapt(moment):
        if moment.stage == "learned":
            with torch.no_grad():
                log_prob, _ = policy_terms(actor, moment.batch)
                kl = functional.approximate_kl(log_prob, scalar(moment.batch, "action_log_prob")).mean()
            loss.beta *= 2.0 if kl > 1.5 * config.target_kl else 0.5 if kl < config.target_kl / 1.5 else 1.0
            moment.scalars["beta"] = loss.beta

    collector = SyncDataCollector(env, actor, frames_per_batch=1024, total_frames=config.total_frames)
    return Pipeline(collector, learn, actor, listeners=[adapt])
