"""The progress bar of a run, on the command line and from Python."""

from __future__ import annotations

import contextlib
import math
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rlpipe.formatting import figure

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Listener, Progress

_FORMAT = "{desc} {percentage:.0f}%|{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}"
"""Without the frames: percentages, speed and both returns fit into 80 columns."""
_SHOWN = {"success_rate": "success", "epsilon": "epsilon", "approx_kl": "KL"}


class ProgressBar:
    """A tqdm bar on stderr: frames per second, training return, evaluation return, epsilon or KL."""

    def __init__(self, name: str, total_frames: int | None, *, quiet: bool = False) -> None:
        # the command line imports this module before it knows that it needs a bar
        from tqdm import tqdm  # noqa: PLC0415

        # in a file, a line every ten seconds is enough
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=total_frames,
            desc=name,
            unit=" frames",
            unit_scale=True,
            disable=quiet,
            mininterval=interval,
            bar_format=None if total_frames is None else _FORMAT,
        )
        self._returns: dict[str, str] = {}
        self._notes: dict[str, str] = {}

    def __call__(self, progress: Progress) -> None:
        """Show new values."""
        if progress.stage == "starting":
            # frames of before a resume do not count for the speed
            self._bar.initial = self._bar.n = progress.frames
        if progress.returns:
            self._returns["training"] = figure(sum(progress.returns) / len(progress.returns))
        if progress.evaluation is not None:
            self._returns["evaluation"] = figure(progress.evaluation.mean)
        scalars = progress.scalars
        self._notes.update({name: f"{scalars[key]:.3g}" for key, name in _SHOWN.items() if key in scalars})
        named = [f"{name} {value}" for name, value in (*self._returns.items(), *self._notes.items())]
        self._bar.set_postfix_str(f"{'return: ' if self._returns else ''}{', '.join(named)}", refresh=False)
        total = self._bar.total
        self._bar.update((progress.frames if total is None else min(progress.frames, total)) - self._bar.n)

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


def shown(progress: Listener | bool | None, name: str, total_frames: float) -> AbstractContextManager[Listener | None]:
    """What is called with the progress of a run: a bar if it is `True`, nothing if `False` or `None`, or itself."""
    if progress is True:
        return contextlib.closing(ProgressBar(name, None if total_frames == math.inf else int(total_frames)))
    return contextlib.nullcontext(progress or None)
