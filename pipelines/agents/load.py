"""Loading the agent of a run from its folder, to evaluate, draw or export it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, shown
from rlpipe.lazy import quick_imports
from rlpipe.pipelines.runs.read import read_run, split_choice

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent


def load(path: Any, checkpoint: str | int | None = None, *, env: Any = None, trust: Collection[str] = ()) -> Agent:
    """Load the agent of a run. It holds no open environments.

    Args:
        path: a run folder, for its newest checkpoint; `RUN@best`, for the one of its best evaluation, `RUN@last` or
            `RUN@<frames>`; a checkpoint in a run folder; or what `rlpipe.train` returned.
        checkpoint: of a run folder: `"best"`, `"last"`, or its frames.
        env: the environment, if `config.json` cannot name it: what `env_id` may be, such as a function that makes it,
            or an `EnvConfig`, whose arguments and wrappers are then used too.
        trust: modules and files that its environment and its algorithm may come from; they are imported.

    Raises:
        CheckpointError: the path is no run, or its checkpoint is damaged or of another run, or `env` must be given.
        ConfigError: the environment is not available.
    """
    path = _chosen(path, checkpoint)
    if env is None:
        # fails fast, before heavy imports
        described, found = read_run(path, trust)
    with quick_imports():
        from rlpipe.pipelines.agents.agent import rebuilt  # noqa: PLC0415
        from rlpipe.pipelines.agents.environment import trusted_by  # noqa: PLC0415

    if env is not None:
        described, found = read_run(path, [*trust, *trusted_by(env)])
    return rebuilt(described, found, env, path)


def _chosen(path: Any, checkpoint: str | int | None) -> Path:
    """The path of what `load` is given."""
    folder = getattr(path, "folder", path)
    if not isinstance(folder, (str, os.PathLike)):
        raise ConfigError(f"path is {shown(path)}; expected a run folder, RUN@best, or a checkpoint")
    if checkpoint is None:
        return Path(folder)
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, (str, int)):
        raise ConfigError(f"checkpoint is {shown(checkpoint)}; expected 'best', 'last', or a number of frames")
    run, which = split_choice(Path(folder))
    if which:
        raise ConfigError(f"path is {folder}, which names a checkpoint, and so does {checkpoint!r}; give one of them")
    return run.with_name(f"{run.name}@{checkpoint}")


@contextlib.contextmanager
def trained(path: Path | str, trusted: Collection[str] = (), env: Any = None) -> Iterator[Agent]:
    """As `load`; within the block, PyTorch uses the run's number of threads."""
    agent = load(path, env=env, trust=trusted)
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(agent.settings.threads)
    try:
        yield agent
    finally:
        torch.set_num_threads(threads)
