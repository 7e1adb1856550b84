"""Quantile regression DQN, Dabney et al. 2018, Algorithm 1: DQN whose network learns the distribution of returns.

The network gives `quantiles` of the return of each action, and the policy takes the action with the largest mean.
Collect, explore, sum `n_steps` rewards and replay as DQN does: `pipelines/build/q_network.py`.
The target is the reward plus the discounted quantiles of the next state's best action. Minimise the quantile Huber
loss (equations 9 and 10) between all pairs of a quantile and a target quantile: `losses/qr_dqn.py`.
"""

from __future__ import annotations

from rlpipe.losses import QRDQNLoss
from rlpipe.modules import QuantileActor
from rlpipe.pipelines.algorithms.configs.qr_dqn import Config
from rlpipe.pipelines.build.networks import is_masked
from rlpipe.pipelines.build.pipeline import set_up
from rlpipe.pipelines.build.q_network import make_q_network, q_network_pipeline
from rlpipe.pipelines.pipeline import Pipeline


def build(config: Config) -> Pipeline:
    """Build QR-DQN.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    spec, dims = env.full_action_spec["action"], len(env.batch_size)
    with seeds.torch_seeded("initialization"):
        network = make_q_network(config, env, config.quantiles)
    actor = QuantileActor(network, spec, config.quantiles, is_masked(env), batch_dims=dims)
    loss = QRDQNLoss(actor, kappa=config.kappa, **config.bootstrap)
    return q_network_pipeline(config, loss, (device, seeds, env), {"kappa": loss})
