"""Advantage actor-critic, Mnih et al. 2016, Algorithm S3, on one batch in place of asynchronous threads.

Collect `rollout_steps` steps of each environment.
Compute advantages by generalized advantage estimation, with `lmbda` 1 from the paper's returns: `losses/advantage.py`.
Minimise the policy gradient loss, the value loss and the negative entropy, section 4: `losses/a2c.py`.
Update actor and critic in one Adam step on the whole batch; then forget it.
"""

from __future__ import annotations

from rlpipe.losses import GAE, A2CLoss
from rlpipe.pipelines.algorithms.configs.a2c import Config
from rlpipe.pipelines.build.networks import make_actor_critic
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.updates.learning import once
from rlpipe.pipelines.updates.update import gradient_step


def build(config: Config) -> Pipeline:
    """Build A2C.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    with seeds.torch_seeded("initialization"):
        actor, critic = make_actor_critic(config, env, seeds.generator("exploration", device))
    loss = A2CLoss(
        actor,
        critic,
        value_kind=config.value_kind,
        value_coefficient=config.value_coefficient,
        entropy_coefficient=config.entropy_coefficient,
        normalize_advantage=config.normalize_advantage,
    ).to(device)
    optimizer, schedule = make_optimizer(config, loss.parameters(), config.batches, config.frames_per_batch)
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, execution=config.execution)
    gae = GAE(critic, gamma=config.gamma, lmbda=config.lmbda)
    learn = scheduled(once(update, advantage=gae, sequences=config.recurrent is not None), optimizer, schedule)
    parts = {"loss": loss, "optimizer": optimizer, "schedule": schedule}
    numbers = optimizer_numbers(optimizer, update) | {"gamma": gae, "lmbda": gae}
    numbers |= {"value_coefficient": loss, "entropy_coefficient": loss}
    return make_pipeline(config, env, actor, learn, seeds, numbers=numbers, **parts)
