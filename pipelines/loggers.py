"""Where a run's metrics go beside its journals: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.board import Board
from rlpipe.pipelines.files import read_plain, replace_synced

Kind = Literal["tensorboard", "wandb", "mlflow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT: tuple[Kind, ...] = ("tensorboard",)
PROJECT = "rlpipe"
"""The W&B project and the MLflow experiment, unless the environment names another."""

_LOG = logging.getLogger("rlpipe")
_SECONDS = 30
_IDS, _LARGEST = "loggers.json", 10_000


class Logger(Protocol):
    """Takes scalars by name, and an end."""

    def log(self, scalars: Mapping[str, float], frames: int) -> None: ...
    def close(self, *, finished: bool) -> None: ...


@dataclass(frozen=True)
class Logged:
    """What a logger is told of a run when it begins.

    Args:
        folder: of the run.
        recipe: its name.
        config: the Config's fields.
        resumed_at: frames at which a run goes on.
        id: under which the logger knows a run that goes on.
    """

    folder: Path
    recipe: str
    config: Mapping[str, Any]
    resumed_at: int | None = None
    id: str | None = None

    @property
    def name(self) -> str:
        """What it is called in a list."""
        return f"{self.recipe}/{self.folder.resolve().name}"

    def hyperparameters(self) -> dict[str, bool | float | str]:
        """The recipe and the Config's fields; several numbers, and none, as they are typed."""
        return {"recipe": self.recipe, **{name: _plain(value) for name, value in self.config.items()}}


class WandbBoard:
    """Weights & Biases, through TorchRL's logger; its files lie in `wandb/` of the run folder."""

    def __init__(self, logged: Logged) -> None:
        import wandb  # noqa: PLC0415 - slow to import, and an extra
        from torchrl.record import WandbLogger  # noqa: PLC0415

        # links would be refused in a run folder that goes on
        quiet: dict[str, Any] = {"console": "off", "quiet": True, "symlink": False}
        settings = wandb.Settings(**quiet, init_timeout=_SECONDS, finish_timeout=2 * _SECONDS)
        self._logger = WandbLogger(
            logged.name,
            save_dir=str(logged.folder.resolve()),
            id=logged.id,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            log_env_packages=False,
            config={"recipe": logged.recipe, **logged.config},
            settings=settings,
        )
        self.id = str(self._logger.experiment.id)

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Hand scalars to W&B's own process, which sends them; each group is drawn over its own `step`."""
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Wait until everything is sent."""
        self._logger.experiment.finish(exit_code=0 if finished else 1)


class MLflowBoard:
    """MLflow, through TorchRL's logger, where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, logged: Logged) -> None:
        # a server that is away is no reason to wait for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_SECONDS))
        import mlflow  # noqa: PLC0415 - slow to import, and an extra
        from torchrl.record import MLFlowLogger  # noqa: PLC0415

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with _run_id_kept():
            if logged.id is not None:
                # what MLflow goes on with, once
                os.environ["MLFLOW_RUN_ID"] = logged.id
            self._logger = MLFlowLogger(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), _tracking_uri())
        self._mlflow, self.id = mlflow, str(self._logger.experiment.info.run_id)
        try:
            if logged.id is None:
                mlflow.set_tag("mlflow.runName", logged.name)
                mlflow.log_params(logged.hyperparameters())
        except BaseException:
            # else the next run of this process would find it still open
            with contextlib.suppress(Exception), _run_id_kept():
                mlflow.end_run("FAILED")
            raise

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Send scalars, and wait until they are there."""
        self._logger.log_metrics(dict(scalars), step=frames)

    def close(self, *, finished: bool) -> None:
        """Mark the run as finished, or as one that was stopped."""
        with _run_id_kept():
            self._mlflow.end_run("FINISHED" if finished else "KILLED")


def check_loggers(kinds: Iterable[str]) -> tuple[Kind, ...]:
    """The loggers of these names, each once; the name `none` by itself is no logger.

    Raises:
        ConfigError: there is none of a name, or it is not installed, or needs a login.
    """
    found = check_names(kinds)
    for kind in found:
        if importlib.util.find_spec(kind) is None:
            raise ConfigError(f'logger {kind} needs an extra: pip install "rlpipe[{kind}]"')
    if "wandb" in found:
        _check_login()
    return found


def check_names(kinds: Iterable[str]) -> tuple[Kind, ...]:
    """As `check_loggers`, whether or not they can be used here."""
    names = [kind.lower() if kind.lower() == "none" else kind for kind in kinds]
    for name in names:
        if name not in (*KINDS, "none"):
            near = difflib.get_close_matches(name.lower(), KINDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(KINDS)}, or none"
            raise ConfigError(f"logger is {name!r}; {hint}")
    if "none" in names and set(names) != {"none"}:
        raise ConfigError(f"logger is {' '.join(names)}; none stands for no logger at all, leave it or the others out")
    return tuple(kind for kind in KINDS if kind in names)


def check_option(names: Sequence[str]) -> tuple[Kind, ...]:
    """As `check_names`, for what stands behind `--logger`."""
    if not names:
        raise ConfigError(f"--logger is empty; expected some of {', '.join(KINDS)}, or none")
    return check_names(names)


class Loggers:
    """The loggers of a run, opened all or none.

    Under which id W&B and MLflow know the run is kept in `loggers.json`, for when it goes on.

    Args:
        kinds: which.
        told: what they are told of the run.

    Raises:
        ConfigError: one cannot be opened.
        TrainingError: nothing can be written into the run folder.
    """

    def __init__(self, kinds: Iterable[Kind], told: Logged) -> None:
        from rlpipe.pipelines.seeding import GlobalRandom  # noqa: PLC0415 - imports torch

        self._opened: dict[Kind, Logger] = {}
        ids = {} if told.resumed_at is None else _read_ids(told.folder)
        # the choice of a logger must not change what is computed
        random = GlobalRandom()
        kept, before = random.state_dict(), dict(ids)
        try:
            for kind in kinds:
                self._opened[kind] = self._open(kind, replace(told, id=ids.get(kind)))
                ids.update({kind: opened} if (opened := getattr(self._opened[kind], "id", None)) else {})
        except BaseException:
            self.close(finished=False)
            raise
        finally:
            random.load_state_dict(kept)
        if ids != before:
            replace_synced(told.folder / _IDS, json.dumps(ids) + "\n")

    def _open(self, kind: Kind, told: Logged) -> Logger:
        try:
            if kind == "tensorboard":
                return Board(told.folder, told.hyperparameters(), told.resumed_at)
            return WandbBoard(told) if kind == "wandb" else MLflowBoard(told)
        except OSError as error:
            if kind == "tensorboard":
                raise TrainingError(f"{told.folder / kind} cannot be written: {error.strerror}") from error
            raise _unopened(kind, error) from error
        except Exception as error:
            raise _unopened(kind, error) from error

    def log(self, scalars: Mapping[str, float], frames: int) -> None:
        """Tell each; one that fails is warned of and dropped, because the journals have everything."""
        for kind, logger in list(self._opened.items()):
            try:
                logger.log(scalars, frames)
            except Exception as error:
                del self._opened[kind]
                _LOG.warning(
                    "rlpipe: logger %s failed at frame %d: %s; the run goes on without it, and metrics.jsonl has all "
                    "of it",
                    kind,
                    frames,
                    _first_line(error),
                )
                _close(logger, finished=False)

    def close(self, *, finished: bool) -> None:
        """Close each that can be closed; `finished` says that the run came to its end."""
        for logger in self._opened.values():
            _close(logger, finished=finished)


def batch_scalars(scalars: Mapping[str, float], returns: list[float], lengths: list[int]) -> dict[str, float]:
    """A line of metrics under the names that loggers group by: `loss/`, `time/` and `train/`."""
    named = {_group(key): value for key, value in scalars.items()}
    if returns:
        named["train/return"] = sum(returns) / len(returns)
        named["train/length"] = sum(lengths) / len(lengths)
    return named


_ADVICE: dict[str, str] = {
    "tensorboard": "--logger none does without",
    "wandb": "WANDB_MODE=offline needs no network, --logger tensorboard no account",
    "mlflow": "MLFLOW_TRACKING_URI says where it writes, --logger tensorboard does without",
}


def _group(key: str) -> str:
    if key.startswith("loss_"):
        return f"loss/{key.removeprefix('loss_')}"
    return f"{'time' if key in ('seconds', 'frames_per_second') else 'train'}/{key}"


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else "none"


def _unopened(kind: Kind, error: Exception) -> ConfigError:
    return ConfigError(f"logger {kind} cannot be opened: {_first_line(error)}; {_ADVICE[kind]}")


def _close(logger: Logger, *, finished: bool) -> None:
    with contextlib.suppress(Exception):
        logger.close(finished=finished)


def _read_ids(folder: Path) -> dict[str, str]:
    """The ids that a run is known by; none if there are none, or what is there is nothing of rlpipe's."""
    try:
        ids = json.loads(read_plain(folder / _IDS, _LARGEST))
        return {kind: ids[kind] for kind in KINDS if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", ids.get(kind, ""))}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _check_login() -> None:
    """Refuse to begin where W&B would ask for a key, or fail for want of one."""
    import wandb  # noqa: PLC0415

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    try:
        allowed = mode not in ("online", "shared") or wandb.login(prompt=False)
    except Exception as error:
        raise _unopened("wandb", error) from error
    if not allowed:
        raise ConfigError("logger wandb needs a login: run wandb login, or set WANDB_MODE=offline to log without one")


@contextlib.contextmanager
def _run_id_kept() -> Iterator[None]:
    """Leave the user's MLFLOW_RUN_ID as it was; MLflow itself forgets it with any run that it ends."""
    before = os.environ.get("MLFLOW_RUN_ID")
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_RUN_ID", None)
        os.environ.update({} if before is None else {"MLFLOW_RUN_ID": before})


def _tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
