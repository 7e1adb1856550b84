"""`Simulator`: the rules of an environment as functions of tensors, and the environment made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from gymnasium.spaces import Space
from torch import Tensor
from torchrl.data import Composite

from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.specs import action_spec, observation_spec
from rlpipe.pipelines.envs.tensor.env import Move, Spaces, TensorEnv, Tensors

_ROW = {2: torch.complex64, 4: torch.complex128}


class Simulator(ABC):
    """The rules of an environment: pure functions of the states of `num_envs` of it, float32 `[num_envs, S]`.

    S is 2 or 4. Every function is made of tensor operations on `device`, and none waits for a value.

    Args:
        num_envs: how many step together.
        device: of all tensors.
    """

    observation_space: ClassVar[Space[Any]]
    action_space: ClassVar[Space[Any]]
    shortest: ClassVar[int | None]
    """Fewest steps from a reset to a termination, whatever the actions; `None` if there is never one."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.num_envs, self.device = num_envs, device

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a first state for each environment."""

    @abstractmethod
    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The next states, the rewards `[num_envs]`, and which of them end an episode, bool `[num_envs]`."""

    def observe(self, state: Tensor) -> Tensor:
        """The observations of states, `[num_envs, *observation]`; a view, if it can be."""
        return state


class SimulatedEnv(TensorEnv):
    """The environments of a `Simulator`.

    Each environment has a first state ready for its next episode, so that a reset is a choice between two tensors. The
    ready states are drawn anew, all at once, each time that no more steps have passed than the shortest episode has:
    an environment uses each at most once.
    """

    def __init__(self, simulator: Simulator, limit: int, *, seed: int | None = None) -> None:
        spaces = Spaces(simulator.num_envs, simulator.observation_space, simulator.action_space)
        super().__init__(spaces, simulator.device, limit=limit, seed=seed)
        batch, device = self.batch_size, simulator.device
        observed = observation_spec({"observation": simulator.observation_space}, batch)["observation"]
        self._set_specs(
            Composite(observation=observed, shape=batch).to(device),
            action_spec(simulator.action_space, batch).to(device),
        )
        self._simulator = simulator
        self._last_for = min(limit, simulator.shortest or limit)
        self._generator = torch.Generator(simulator.device)
        self._is_seeded = False
        self._state = self._ready = self._moved = torch.zeros(0)
        self._age = 0

    def _move(self, action: Tensor) -> Move:
        state, reward, terminated = self._simulator.move(self._state, action)
        self.__dict__["_moved"] = state
        return Move({"observation": self._simulator.observe(state)}, reward, terminated)

    def _renew(self, done: Tensor, after: Tensors) -> Tensors:
        if self._age == self._last_for:
            self.__dict__.update(_ready=self._simulator.draw(self._generator), _age=0)
        state = choose(done, self._ready, self._moved)
        self.__dict__.update(_state=state, _age=self._age + 1)
        return {"observation": self._simulator.observe(state)}

    def _begin(self, seed: int | None) -> Tensors:
        if seed is not None:
            self._generator.manual_seed(seed)
        elif not self._is_seeded:
            self._generator.seed()
        self._is_seeded = True
        self._state = self._simulator.draw(self._generator)
        self._ready, self._age = self._simulator.draw(self._generator), 0
        return {"observation": self._simulator.observe(self._state)}

    def _begin_some(self, mask: Tensor) -> Tensors:
        self._state = choose(mask, self._simulator.draw(self._generator), self._state)
        self._ready, self._age = self._simulator.draw(self._generator), 0
        return {"observation": self._simulator.observe(self._state)}

    def can_capture(self) -> bool:
        return True

    def _capture(self) -> dict[str, Any]:
        return {
            "state": self._state,
            "ready": self._ready,
            "age": self._age,
            "random": self._generator.get_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        check_like(self._capture(), state)
        self._generator.set_state(state["random"].cpu())
        self._is_seeded, self._age = True, state["age"]
        self._state, self._ready = (state[name].to(self.device, copy=True) for name in ("state", "ready"))


def choose(mask: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`torch.where(mask.unsqueeze(-1), first, second)` for float32 `[N, 2]` or `[N, 4]`, several times as fast.

    A row is taken for one complex number, because a mask for each row is slow on a CPU.
    """
    row = _ROW[first.shape[-1]]
    return torch.where(mask.unsqueeze(-1), first.view(row), second.view(row)).view(torch.float32)
