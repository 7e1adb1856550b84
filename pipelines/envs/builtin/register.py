"""Registers rlpipe's environments with Gymnasium."""

from __future__ import annotations

from gymnasium.envs import registration

_FAMILY = {
    "rlpipe/CartPoleInstances-v0": {},
    "rlpipe/CartPoleInstancesHeldOut-v0": {"held_out": True},
    "rlpipe/CartPoleInstancesBlind-v0": {"blind": True},
    "rlpipe/CartPoleInstancesBlindHeldOut-v0": {"blind": True, "held_out": True},
}
_CLASSIC = "gymnasium.envs.classic_control"
# also by itself a Gymnasium environment: its twin, which has the same rules, and draws
_TWINS = {
    "rlpipe/TorchCartPole-v0": (f"{_CLASSIC}.cartpole:CartPoleEnv", 500),
    "rlpipe/TorchPendulum-v0": (f"{_CLASSIC}.pendulum:PendulumEnv", 200),
    "rlpipe/TorchMountainCar-v0": (f"{_CLASSIC}.mountain_car:MountainCarEnv", 200),
}
SIMULATORS = {
    "rlpipe/TorchCartPole-v0": "rlpipe.pipelines.envs.builtin.torch_cartpole:TorchCartPole",
    "rlpipe/TorchPendulum-v0": "rlpipe.pipelines.envs.builtin.torch_pendulum:TorchPendulum",
    "rlpipe/TorchMountainCar-v0": "rlpipe.pipelines.envs.builtin.torch_mountain_car:TorchMountainCar",
}
"""The environments in tensors, by id: the `Simulator` of each."""


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
    registration.register(
        "rlpipe/CartPolePositions-v0",
        "rlpipe.pipelines.envs.builtin.cartpole_positions:PositionCartPole",
        vector_entry_point="rlpipe.pipelines.envs.builtin.cartpole_positions:PositionCartPoleVector",
        max_episode_steps=500,
    )
    registration.register("rlpipe/Recall-v0", "rlpipe.pipelines.envs.builtin.recall:Recall")
    for env_id, (twin, steps) in _TWINS.items():
        registration.register(env_id, twin, max_episode_steps=steps)
