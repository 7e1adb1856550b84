"""The progress bar of a run, on the command line and from Python."""

from __future__ import annotations

import contextlib
import html
import io
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rlpipe.formatting import figure

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Listener, Progress

_FORMAT = "{desc} {percentage:.0f}%|{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}"
"""Without the frames: percentages, speed and both returns fit into 80 columns."""
_SHOWN = {"success_rate": "success", "epsilon": "epsilon", "approx_kl": "KL"}


class ProgressBar:
    """A tqdm bar on stderr, or in a notebook: frames per second, training and evaluation return, epsilon or KL."""

    def __init__(self, name: str, total_frames: int | None, *, quiet: bool = False) -> None:
        form = None if total_frames is None else _FORMAT
        # a process may have been started without stderr
        off = quiet or (sys.stderr is None and not _in_notebook())
        self._bar = _bar(total=total_frames, desc=name, unit="", unit_scale=True, disable=off, bar_format=form)
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
        notes = self._notes if _is_wide() else {}
        named = [f"{name} {value}" for name, value in (self._returns | notes).items()]
        self._bar.set_postfix_str(f"{'return: ' if self._returns else ''}{', '.join(named)}", refresh=False)
        total = self._bar.total
        self._bar.update((progress.frames if total is None else min(progress.frames, total)) - self._bar.n)

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


def _is_wide() -> bool:
    """Whether there is room for more than a bar and returns: a file has, and most terminals."""
    return not _on_terminal() or shutil.get_terminal_size().columns >= 100


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _bar(**options: Any) -> Any:
    """A tqdm bar, in a notebook as an output of its cell."""
    # the command line imports this module before it knows that it needs a bar
    from tqdm import tqdm  # noqa: PLC0415

    if not _in_notebook():
        # in a file, a line every ten seconds is enough
        return tqdm(mininterval=0.1 if _on_terminal() else 10.0, **options)
    from IPython.display import display  # noqa: PLC0415

    class NotebookBar(tqdm):
        """In one output that changes, which `tqdm.notebook` needs ipywidgets for."""

        @staticmethod
        def status_printer(file: Any) -> Callable[[str], None]:
            output = display({"text/plain": ""}, raw=True, display_id=True)

            def show(text: str) -> None:
                styled = f'<pre style="margin: 0; overflow: hidden">{html.escape(text.strip())}</pre>'
                output.update({"text/plain": text.strip(), "text/html": styled}, raw=True)

            return show

    # tqdm also writes line ends
    return NotebookBar(mininterval=0.3, file=io.StringIO(), ascii=False, ncols=110, **options)


def _in_notebook() -> bool:
    python = sys.modules.get("IPython")
    return python is not None and getattr(python.get_ipython(), "kernel", None) is not None


def shown(progress: Listener | bool | None, name: str, total_frames: float) -> AbstractContextManager[Listener | None]:
    """What is called with the progress of a run: a bar if it is `True`, nothing if `False` or `None`, or itself."""
    if progress is True:
        return contextlib.closing(ProgressBar(name, None if total_frames == math.inf else int(total_frames)))
    return contextlib.nullcontext(progress or None)
