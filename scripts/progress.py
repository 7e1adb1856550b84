"""The progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlpipe.pipelines.config import TrainConfig

_SHOWN = {"epsilon": "epsilon", "approx_kl": "KL"}


class ProgressBar:
    """A tqdm bar on stderr, told of each batch by `train`: frames a second, latest return, epsilon or KL.

    Args:
        name: in front of the bar.
        total_frames: at its end.
        quiet: show nothing.
    """

    def __init__(self, name: str, total_frames: int, *, quiet: bool) -> None:
        from tqdm import tqdm

        # where stderr is a file, a line every ten seconds is enough
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=total_frames, desc=name, unit=" frames", unit_scale=True, disable=quiet, mininterval=interval
        )
        self._notes: dict[str, str] = {}

    def __call__(self, frames: int, scalars: Mapping[str, float], returns: list[float]) -> None:
        if returns:
            self._notes["return"] = f"{sum(returns) / len(returns):.1f}"
        self._notes.update({name: f"{scalars[key]:.3f}" for key, name in _SHOWN.items() if key in scalars})
        self._bar.set_postfix(self._notes, refresh=False)
        self._bar.update(min(frames, self._bar.total) - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is, and end its line."""
        self._bar.close()


def bar(recipe: str, config: TrainConfig, *, quiet: bool) -> Callable[[], AbstractContextManager[ProgressBar]]:
    """What a `Session` makes its display with: a progress bar of a run."""
    return lambda: contextlib.closing(ProgressBar(recipe, config.total_frames, quiet=quiet))
