"""TorchRL transforms of ours, where TorchRL has none."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, TensorSpec
from torchrl.envs import Transform
from torchrl.envs.transforms import ObservationTransform

from rlpipe.errors import ConfigError


class OneHotObservation(ObservationTransform):
    """Encode a Discrete observation `[*B]` as a float32 vector `[*B, n]`, for networks that expect one.

    rlpipe's own networks encode for themselves (`rlpipe.modules.encoder`).

    Raises:
        ConfigError: the observation is no Discrete one.
    """

    def __init__(self) -> None:
        super().__init__(in_keys=["observation"], out_keys=["observation"])
        self._n = 0

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        spec = observation_spec["observation"]
        if not isinstance(spec, Categorical):
            raise ConfigError(f"OneHotObservation needs a Discrete observation, got {type(spec).__name__}")
        self._n = int(spec.space.n)
        observation_spec["observation"] = Bounded(0.0, 1.0, shape=(*spec.shape, self._n), dtype=torch.float32)
        return observation_spec

    def _apply_transform(self, obs: Tensor) -> Tensor:
        return F.one_hot(obs, self._n).float()

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)


class ShapeReward(Transform):
    """Replace the reward that is learned from; `episode_reward` stays the environment's own return.

    Args:
        function: takes the step's `next` entries (`observation`, `reward` `[*B, 1]`, `terminated` and `truncated`
            `[*B, 1]`, `step_count` `[*B, 1]`) and returns the shaped reward, `[*B, 1]`. It must not write into them.
    """

    def __init__(self, function: Callable[[TensorDictBase], Tensor]) -> None:
        super().__init__(in_keys=["reward"], out_keys=["reward"])
        self.function = function

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set("reward", self.function(next_tensordict).float())
