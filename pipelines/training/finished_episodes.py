"""The episodes that end in collected batches: their returns, lengths and successes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.errors import ConfigError
from rlpipe.pipelines.devices import moved
from rlpipe.pipelines.envs.infos.keys import SUCCESS
from rlpipe.pipelines.envs.infos.log import InfoReport, MissingKeys
from rlpipe.pipelines.envs.vector import VectorEnv

_HOST = torch.device("cpu")
_MOST = 1_000_000
"""The most unfinished episodes whose sums are kept."""


class Ended(NamedTuple):
    """Finished episodes, in the order in which they ended.

    Args:
        returns: undiscounted.
        lengths: steps.
        successes: 1 or 0, of those episodes whose environment reports it.
        infos: sum and count of other numbers in infos, by their metric.
    """

    returns: list[float]
    lengths: list[int]
    successes: list[float]
    infos: Mapping[str, tuple[float, int]] = {}


class EpisodeCounter:
    """Counts the episodes of a collector, ours or TorchRL's, with environments of any batch size.

    If the environment has no `episode_reward` or `step_count`, they are summed here from batch to batch, by TorchRL's
    trajectory ids or, without them, by an environment's place in the batch.
    """

    def __init__(self, collector: Iterable[TensorDictBase]) -> None:
        self._collector = collector
        env = getattr(collector, "env", None)
        base = getattr(env, "base_env", env)
        # environments that are remade keep it
        self._infos = base.infos if isinstance(base, VectorEnv) else None
        self._running: dict[int, tuple[float, int]] = {}
        self._missing = MissingKeys()

    def begin(self) -> None:
        """Let the environments report successes from now on."""
        if self._infos is not None:
            self._infos.start()

    def count(self, batch: TensorDictBase) -> Ended:
        """The episodes that ended in a batch `[*num_envs, T]`.

        Raises:
            ConfigError: the batch does not say when episodes end, or their returns; says what to add.
        """
        after = batch.get("next", None)
        done = None if after is None else after.get("done", None)
        if done is None or done.shape != (*batch.shape, 1):
            raise ConfigError(
                f"train counts episodes by ('next', 'done') of shape {[*batch.shape, 1]}, and a batch has "
                f"{_has(batch, 'done', done)}; add a transform to the environment that writes it"
            )
        if after.get("episode_reward", None) is None or after.get("step_count", None) is None:
            returns, lengths = self._sum_up(batch)
        else:
            returns, lengths = finished_episodes(batch)
        report = getattr(self._collector, "infos", None) if self._infos is None else self._infos.take()
        if not isinstance(report, InfoReport):
            return Ended(returns, lengths, _successes_in(after, done))
        self._missing.note(report, returns)
        return Ended(returns, lengths, [success for _, success in report.successes], report.sums)

    def _sum_up(self, batch: TensorDictBase) -> tuple[list[float], list[int]]:
        """The same for environments that keep only one of the two sums, or none."""
        after, rank = batch.get("next"), batch.dim() + 1
        reward = _per_step(batch, "reward" if after.get("episode_reward", None) is None else "episode_reward")
        total, count = after.get("episode_reward", None), after.get("step_count", None)
        ids, mask = batch.get(("collector", "traj_ids"), None), batch.get(("collector", "mask"), None)
        rows = _rows(after.get("done"), rank).T.tolist()
        rewards = _rows(reward, rank).T.double().tolist()
        places = None if ids is None else _rows(ids.reshape(after.get("done").shape), rank).T.tolist()
        real = None if mask is None else _rows(mask.reshape(after.get("done").shape), rank).T.tolist()
        counts = None if count is None else _rows(count, rank).T.tolist()
        ended = []
        for row, flags in enumerate(rows):
            for time, over in enumerate(flags):
                if real is not None and not real[row][time]:
                    continue
                place = row if places is None else places[row][time]
                total_reward, steps = self._running.pop(place, (0.0, 0))
                total_reward, steps = total_reward + rewards[row][time], steps + 1
                if not over:
                    self._running[place] = total_reward, steps
                    continue
                value = rewards[row][time] if total is not None else total_reward
                ended.append((time, row, value, steps if counts is None else counts[row][time]))
        while len(self._running) > _MOST:
            # trajectories that were never finished
            del self._running[next(iter(self._running))]
        ended.sort(key=lambda each: each[:2])
        return [each[2] for each in ended], [each[3] for each in ended]


def _successes_in(after: TensorDictBase, done: Tensor) -> list[float]:
    """The successes of a TorchRL environment, whose info reader puts them into a batch's `next`."""
    found = after.get(SUCCESS.name, None)
    if not isinstance(found, Tensor) or found.numel() != done.numel():
        return []
    values = _rows(found.reshape(done.shape), done.dim())[_rows(done, done.dim())].float().tolist()
    return [value for value in values if math.isfinite(value)]


def finished_episodes(batch: TensorDictBase) -> tuple[list[float], list[int]]:
    """Returns and lengths of the episodes that ended in a batch `[*num_envs, T]`, in the order in which they ended.

    Raises:
        ConfigError: `episode_reward` or `step_count` is of another shape than the batch; says what to add.
    """
    after, rank = batch.get("next"), batch.dim() + 1
    entries = [after.get("done"), *(_per_step(batch, key) for key in ("episode_reward", "step_count"))]
    done, returns, lengths = (_rows(each, rank) for each in moved(entries, _HOST))
    return returns[done].tolist(), lengths[done].tolist()


def frames_of(batch: TensorDictBase) -> int:
    """The frames in a batch, without those that TorchRL adds to pad split trajectories."""
    mask = batch.get(("collector", "mask"), None)
    return batch.numel() if mask is None else int(mask.sum())


def _per_step(batch: TensorDictBase, key: str) -> Tensor:
    """An entry of `next`, `[*batch, 1]`."""
    value = batch.get(("next", key), None)
    if not isinstance(value, Tensor) or value.shape != (*batch.shape, 1):
        raise ConfigError(
            f"train counts returns by ('next', {key!r}) of shape {[*batch.shape, 1]}, and a batch has "
            f"{_has(batch, key, value)}; add transforms to the environment that write 'episode_reward', such as "
            "RewardSum(in_keys=[...], out_keys=['episode_reward']), and 'step_count', such as StepCounter()"
        )
    return value


def _has(batch: TensorDictBase, key: str, value: Any) -> str:
    if value is not None:
        return f"one of shape {list(value.shape)}"
    names = (name for name in batch.keys(True, True) if isinstance(name, tuple) and name[0] == "next")
    found = [name for name in names if str(name[-1]).endswith(key.rpartition("_")[2])]
    return f"none, but {', '.join(map(str, found))}" if found else "none"


def _rows(value: Tensor, rank: int) -> Tensor:
    """`[*num_envs, T, 1]` to `[T, num_envs]`."""
    return value.reshape(-1, value.shape[rank - 2]).T
