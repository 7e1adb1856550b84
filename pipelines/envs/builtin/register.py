"""Registers rlpipe's environments with Gymnasium."""

from __future__ import annotations

from gymnasium.envs import registration

_FAMILY = {
    "rlpipe/CartPoleInstances-v0": {},
    "rlpipe/CartPoleInstancesHeldOut-v0": {"held_out": True},
    "rlpipe/CartPoleInstancesBlind-v0": {"blind": True},
    "rlpipe/CartPoleInstancesBlindHeldOut-v0": {"blind": True, "held_out": True},
}


def register() -> None:
    """Register rlpipe's ids with Gymnasium; a second call changes nothing.

    Entry points are strings, so that an environment's module loads when one is first made.
    """
    # Gymnasium warns of an id that is registered twice
    if "rlpipe/Maze-v0" in registration.registry:
        return
    registration.register("rlpipe/Maze-v0", "rlpipe.pipelines.envs.builtin.maze:Maze", max_episode_steps=500)
    for env_id, kwargs in _FAMILY.items():
        registration.register(
            env_id,
            "rlpipe.pipelines.envs.builtin.cartpole_instances:InstanceCartPole",
            vector_entry_point="rlpipe.pipelines.envs.builtin.cartpole_instances:InstanceCartPoleVector",
            max_episode_steps=500,
            kwargs=kwargs,
        )
