"""Who is told about training: the progress listener, and the listeners of its moments. Both may end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Listener, Reporter, Stage
from rlpipe.pipelines.stopping import StoppingRule
from rlpipe.pipelines.training.listeners import Listeners, Moment, MomentStage
from rlpipe.pipelines.training.result import Result


class Audience:
    """Tells listeners what happens, with the counters of training, and passes on that one of them ends it.

    Args:
        pipeline: its own listeners come first.
        progress: the progress listener, if there is one.
        listeners: of moments, besides the pipeline's.
        result: the counters.
        stopping: is told why training ends.
        limit: the frames to collect in all.
        folder: of the run, if there is one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        progress: Listener | None,
        listeners: Sequence[Callable[[Moment], object]],
        *,
        result: Result,
        stopping: StoppingRule,
        limit: float,
        folder: Path | None,
    ) -> None:
        self._pipeline, self._result, self._stopping, self._limit = pipeline, result, stopping, limit
        self._folder, self._reporter = folder, Reporter(progress)
        every = (*pipeline.listeners, *listeners)
        self.listeners = Listeners(every) if every else None

    def report(self, stage: Stage, **new: Any) -> None:
        """Report progress."""
        if reason := self._reporter.report(self._result.progress(stage, **new)):
            self._stopping.end(reason, self._limit)

    def tell(self, stage: MomentStage, **new: Any) -> Moment | None:
        """Tell the listeners of a moment, which may change what is new in it; `None` if there are no listeners."""
        if self.listeners is None:
            return None
        result = self._result
        counted = (result.frames, self._limit, result.updates, result.episodes, result.seconds)
        moment = Moment(stage, self._pipeline, *counted, self._folder, **new)
        if reason := self.listeners.tell(moment):
            self._stopping.end(reason, self._limit)
        if stage != "collected":
            # else what is kept of older batches belongs to episodes that end in this one
            self._pipeline.drop_abandoned()
        return moment

    @property
    def raised(self) -> BaseException | None:
        """What one of them raised."""
        if self._reporter.raised is not None or self.listeners is None:
            return self._reporter.raised
        return self.listeners.raised
