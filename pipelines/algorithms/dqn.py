"""Deep Q-learning with experience replay, Mnih et al. 2015, Algorithm 1; Double, n steps and dueling as options.

Collect `rollout_steps` steps of each environment into the replay buffer; with probability epsilon an action is random.
Compute n-step returns (Sutton and Barto 2018, equation 7.1: `losses/returns.py`) and from them the target: the largest
action value of the next state, or Double DQN's (van Hasselt et al. 2016, equation 4).
Minimise the distance of the action value from the target: `losses/dqn.py`.
Update the Q network in `updates` Adam steps on uniformly drawn minibatches, and the target network after each step.
All but the loss and the network's outputs is in `pipelines/build/q_network.py`.
"""

from __future__ import annotations

from rlpipe.losses import DQNLoss
from rlpipe.modules import QActor
from rlpipe.pipelines.algorithms.configs.dqn import Config
from rlpipe.pipelines.build.networks import is_masked
from rlpipe.pipelines.build.pipeline import set_up
from rlpipe.pipelines.build.q_network import make_q_network, q_network_pipeline
from rlpipe.pipelines.pipeline import Pipeline


def build(config: Config) -> Pipeline:
    """Build DQN.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    with seeds.torch_seeded("initialization"):
        network = make_q_network(config, env)
    actor = QActor(network, env.full_action_spec["action"], is_masked(env), batch_dims=len(env.batch_size))
    loss = DQNLoss(actor, kind=config.kind, **config.bootstrap)
    return q_network_pipeline(config, loss, (device, seeds, env))
