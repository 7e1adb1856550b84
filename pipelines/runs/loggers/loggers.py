"""The loggers of a run: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from rlpipe.errors import ConfigError, TrainingError, first_line
from rlpipe.pipelines.checkpoints.durable_files import DAMAGE, read_plain, replace_synced
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.loggers.base import Logged
from rlpipe.pipelines.runs.loggers.mlflow import MLflowLog
from rlpipe.pipelines.runs.loggers.tensorboard import TensorBoardLog
from rlpipe.pipelines.runs.loggers.wandb import WandbLog
from rlpipe.spelling import did_you_mean

if TYPE_CHECKING:
    from rlpipe.pipelines.progress import Evaluation

Kind = Literal["tensorboard", "wandb", "mlflow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT: tuple[Kind, ...] = ("tensorboard",)

_LOG = logging.getLogger("rlpipe")
_LARGEST = 10_000
Logger = TensorBoardLog | WandbLog | MLflowLog


def check_loggers(kinds: Iterable[str]) -> tuple[Kind, ...]:
    """The loggers of these names, each once; the name `none` alone stands for no logger.

    Raises:
        ConfigError: there is no logger of a name, or it is not installed, or needs a login.
    """
    found = check_names(kinds)
    for kind in found:
        if importlib.util.find_spec(kind) is None:
            raise ConfigError(f'logger {kind} needs an extra: pip install "rlpipe[{kind}]"')
    if "wandb" in found:
        _check_login()
    return found


def check_names(kinds: Iterable[str]) -> tuple[Kind, ...]:
    """As `check_loggers`, even if they are not installed here."""
    names = [kind.lower() if kind.lower() == "none" else kind for kind in kinds]
    for name in names:
        if name not in (*KINDS, "none"):
            raise ConfigError(f"logger is {name!r}; {did_you_mean(name, [*KINDS, 'none'])}")
    if "none" in names and set(names) != {"none"}:
        raise ConfigError(f"logger is {' '.join(names)}; none means no logger, so leave out either it or the others")
    return tuple(kind for kind in KINDS if kind in names)


def check_option(names: Sequence[str]) -> tuple[Kind, ...]:
    """As `check_names`, for the values of `--logger`."""
    if not names:
        raise ConfigError(f"--logger is empty; expected some of {', '.join(KINDS)}, or none")
    return check_names(names)


class Loggers:
    """The loggers of a run; if one fails to open, none is left open.

    The ids by which W&B and MLflow know the run are kept in `loggers.json`, to resume it.

    Raises:
        ConfigError: one cannot be opened.
        TrainingError: nothing can be written into the run folder.
    """

    def __init__(self, kinds: Iterable[Kind], logged: Logged) -> None:
        from rlpipe.pipelines.seeding import GlobalRandom  # noqa: PLC0415 - imports torch

        self._opened: dict[Kind, Logger] = {}
        ids = {} if logged.resumed_at is None else _read_ids(logged.folder)
        # the choice of loggers must not change the results
        random = GlobalRandom()
        kept, before = random.state_dict(), dict(ids)
        try:
            for kind in kinds:
                self._opened[kind] = self._open(kind, replace(logged, id=ids.get(kind)))
                ids.update({kind: opened} if (opened := getattr(self._opened[kind], "id", None)) else {})
        except BaseException:
            self.close(finished=False)
            raise
        finally:
            random.load_state_dict(kept)
        if ids != before:
            replace_synced(logged.folder / layout.LOGGERS, json.dumps(ids) + "\n")

    def _open(self, kind: Kind, logged: Logged) -> Logger:
        try:
            if kind == "tensorboard":
                return TensorBoardLog(logged.folder, logged.hyperparameters(), logged.resumed_at)
            return WandbLog(logged) if kind == "wandb" else MLflowLog(logged)
        except Exception as error:
            if kind == "tensorboard" and isinstance(error, OSError):
                raise TrainingError(f"{logged.folder / kind} cannot be written: {error.strerror}") from error
            raise _unopened(kind, error) from error

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Log with each; one that fails is dropped with a warning, because the journals have everything."""
        for kind, logger in list(self._opened.items()):
            try:
                logger.log(scalars, frames)
            except Exception as error:
                del self._opened[kind]
                _LOG.warning(
                    "rlpipe: logger %s failed at frame %d: %s; the run continues without it, and metrics.jsonl "
                    "has everything",
                    kind,
                    frames,
                    first_line(error),
                )
                _close(logger, finished=False)

    def close(self, *, finished: bool) -> None:
        """Close each, whatever fails; `finished` says that the run came to its end."""
        for logger in self._opened.values():
            _close(logger, finished=finished)


def batch_scalars(scalars: Mapping[str, float], returns: list[float], lengths: list[int]) -> dict[str, float]:
    """A line of metrics under the groups of loggers: `loss/`, `time/`, `info/` and `train/`."""
    named = {_group(key): value for key, value in scalars.items()}
    if returns:
        named["train/return"] = sum(returns) / len(returns)
        named["train/length"] = sum(lengths) / len(lengths)
    return named


def evaluation_scalars(evaluation: Evaluation, *, final: bool) -> dict[str, float]:
    """The means of an evaluation under the group `eval/`."""
    kind = "eval/final_" if final else "eval/"
    length = sum(evaluation.lengths) / len(evaluation.lengths)
    scalars = {f"{kind}return": evaluation.mean, f"{kind}length": length}
    rate = evaluation.success_rate
    return scalars if rate is None else {**scalars, f"{kind}success_rate": rate}


_ADVICE: dict[str, str] = {
    "tensorboard": "--logger none turns it off",
    "wandb": "WANDB_MODE=offline needs no network, and --logger tensorboard needs no account",
    "mlflow": "MLFLOW_TRACKING_URI sets where it writes, and --logger tensorboard needs no server",
}


def _group(key: str) -> str:
    if key.startswith("info/"):
        return key
    if key.startswith("loss_"):
        return f"loss/{key.removeprefix('loss_')}"
    return f"{'time' if key in ('seconds', 'frames_per_second', 'collectors_waiting') else 'train'}/{key}"


def _unopened(kind: Kind, error: Exception) -> ConfigError:
    return ConfigError(f"logger {kind} cannot be opened: {first_line(error)}; {_ADVICE[kind]}")


def _close(logger: Logger, *, finished: bool) -> None:
    with contextlib.suppress(Exception):
        logger.close(finished=finished)


def _read_ids(folder: Path) -> dict[str, str]:
    """The ids of a run; empty if there are none, or the file is damaged."""
    try:
        ids = json.loads(read_plain(folder / layout.LOGGERS, _LARGEST))
        return {kind: ids[kind] for kind in KINDS if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", ids.get(kind, ""))}
    except DAMAGE:
        return {}


def _check_login() -> None:
    """Refuse to start if W&B has no key and would ask for one, or fail."""
    import wandb  # noqa: PLC0415

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    try:
        allowed = mode not in ("online", "shared") or wandb.login(prompt=False)
    except Exception as error:
        raise _unopened("wandb", error) from error
    if not allowed:
        raise ConfigError("logger wandb needs a login: run wandb login, or set WANDB_MODE=offline to log without one")
