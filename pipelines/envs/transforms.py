"""Transforms that TorchRL does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, TensorSpec
from torchrl.envs import DoubleToFloat, ObservationNorm, Transform, TransformedEnv
from torchrl.envs.transforms import ObservationTransform

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.frozen_transforms import per_environment
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm, RunningRewardNorm, reads_raw


class OneHotObservation(ObservationTransform):
    """Encode a Discrete observation `[*B]` as a float32 vector `[*B, n]`, for networks that expect one.

    rlpipe's networks do not need it (`rlpipe.modules.encoder`).

    Raises:
        ConfigError: the observation is not Discrete.
    """

    def __init__(self) -> None:
        super().__init__(in_keys=["observation"], out_keys=["observation"])
        self._n = 0

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        spec = observation_spec["observation"]
        if not isinstance(spec, Categorical):
            raise ConfigError(f"OneHotObservation needs a Discrete observation, got {type(spec).__name__}")
        self._n = int(spec.space.n)
        observation_spec["observation"] = Bounded(
            0.0, 1.0, shape=(*spec.shape, self._n), dtype=torch.float32, device=spec.device
        )
        return observation_spec

    def _apply_transform(self, obs: Tensor) -> Tensor:
        return F.one_hot(obs, self._n).float()

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)


class ShapeReward(Transform):
    """Replace the reward to learn from; `episode_reward` stays the environment's own return.

    Args:
        function: takes the step's `next` entries (`observation`, `reward` `[*B, 1]`, `terminated` and `truncated`
            `[*B, 1]`, `step_count` `[*B, 1]`) and returns the shaped reward, `[*B, 1]`. It must not write into them.
    """

    def __init__(self, function: Callable[[TensorDictBase], Tensor]) -> None:
        super().__init__(in_keys=["reward"], out_keys=["reward"])
        self.function = function

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set("reward", self.function(next_tensordict).float())


_MAX_INDEX = 2**62


class BinObservation(ObservationTransform):
    """Cut each feature of a Box observation into equal bins: `[*B, *D]` to one Discrete index `[*B]`.

    The first feature is the most significant digit; a value outside its limits goes to the outermost bin.

    Args:
        bins: how many for each feature.
        low: lower limit of each feature.
        high: upper limit of each feature, above `low`.

    Raises:
        ConfigError: the observation is not a Box, or has another number of features.
    """

    low: Tensor
    width: Tensor
    place: Tensor

    def __init__(self, bins: int, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__(in_keys=["observation"], out_keys=["observation"])
        if len(low) != len(high) or any(least >= most for least, most in zip(low, high, strict=False)):
            raise ConfigError(
                f"bins run from {tuple(low)} to {tuple(high)}; each upper limit must be above its lower one"
            )
        if (states := bins ** len(low)) > _MAX_INDEX:
            raise ConfigError(f"{bins} bins of {len(low)} features are {float(states):.0e} states; take fewer")
        self.bins = bins
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("width", (torch.tensor(high, dtype=torch.float64) - self.low) / bins)
        self.register_buffer("place", bins ** torch.arange(len(low) - 1, -1, -1))

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        spec = observation_spec["observation"]
        batch = observation_spec.shape
        features = math.prod(spec.shape[len(batch) :])
        if not isinstance(spec, Bounded) or features != len(self.low):
            what = (
                f"a Box of {features} features"
                if isinstance(spec, Bounded)
                else "no Box; --bins none leaves it as it is"
            )
            raise ConfigError(f"bins are given for {len(self.low)} features, and the observation is {what}")
        observation_spec["observation"] = Categorical(
            self.bins ** len(self.low), batch, dtype=torch.int64, device=spec.device
        )
        self._dims = len(spec.shape) - len(batch)
        return observation_spec

    def _apply_transform(self, obs: Tensor) -> Tensor:
        features = obs.reshape(*obs.shape[: obs.ndim - self._dims], len(self.low))
        digits = ((features - self.low) / self.width).floor().clamp(0, self.bins - 1)
        return (digits.long() * self.place).sum(-1)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)


POINTWISE = (OneHotObservation, ShapeReward, BinObservation, ObservationNorm, DoubleToFloat)
"""Transforms of single steps: a rollout transformed at once equals its steps transformed one by one."""


def is_pointwise(transform: Transform, env: TransformedEnv) -> bool:
    """Whether a transform is one of `POINTWISE`, not a subclass, and does not change actions.

    The action's type does not matter: the environment casts it. A normalisation with statistics for each environment
    does not fit a whole rollout, and one of an entry that a reset does not give (a reward) needs TorchRL's reset.
    """
    kind = type(transform)
    if kind is RunningObservationNorm:
        return reads_raw(transform, env)
    if kind is ObservationNorm:
        specs = (env.base_env.observation_spec, env.observation_spec)
        shapes = [spec[key].shape for spec in specs for key in transform.in_keys if key in spec.keys()]  # noqa: SIM118
        if len(shapes) < len(specs) * len(transform.in_keys):
            return False
        dims = max((len(shape) - 1 for shape in shapes), default=0)
        if per_environment(transform.loc, transform.scale, dims):
            return False
    return kind in (*POINTWISE, RunningRewardNorm) and (kind is DoubleToFloat or not transform.in_keys_inv)
