"""The `rlpipe` command: runs a subcommand, and turns every expected error into one line and an exit code.

It imports nothing heavy, so that help and mistyped commands answer at once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

from rlpipe.errors import ConfigError, InterruptedRunError, RlpipeError
from rlpipe.pipelines.child_processes import QUIET_TRACKER
from rlpipe.scripts.cli.help import heading, listed
from rlpipe.scripts.cli.text import printable
from rlpipe.spelling import did_you_mean
from rlpipe.version import __version__
from rlpipe.warn_once import each_once

COMMANDS = {
    "train": "train an agent with a recipe, and write a run folder",
    "resume": "continue a run that was stopped or killed",
    "evaluate": "evaluate a run or a checkpoint",
    "render": "record episodes of a run, or of a random agent, as a GIF or MP4",
    "export": "write a run's policy as ONNX, torch.export or safetensors",
    "table": "print a table of results over seeds, from run folders",
    "report": "write a page that compares runs, from run folders",
    "recipes": "list the recipes",
    "benchmark": "measure rlpipe, TorchRL and Stable-Baselines3 side by side",
}

EXAMPLES = (
    ("rlpipe train ppo", "train PPO on CartPole-v1, some seconds"),
    ("rlpipe train ppo --help", "all options of the recipe ppo"),
    ("rlpipe evaluate RUN", "RUN is the folder that train has written"),
    ("rlpipe render RUN", "see the agent act, in agent.gif"),
)


def _help() -> str:
    parts = {"commands": listed(list(COMMANDS.items()), 14), "start with": listed(EXAMPLES, 30)}
    text = "\n\n".join("\n".join([heading(name), *lines]) for name, lines in parts.items())
    return (
        "usage: rlpipe COMMAND ...\n\nTrain reinforcement-learning agents with TorchRL.\n\n"
        f"{text}\n\nrlpipe COMMAND --help tells more, rlpipe --version the version.\n"
    )


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for bad input, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if QUIET_TRACKER not in sys.warnoptions:
        sys.warnoptions.append(QUIET_TRACKER)
    _open_closed()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), each_once():
            code = _dispatch(list(arguments))
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except InterruptedRunError as error:
        print(f"rlpipe: {error}", file=sys.stderr)
        return error.exit_code
    except RlpipeError as error:
        print(f"rlpipe: error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # for example a path that is too long, or a folder without read permission
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"rlpipe: error: {printable(what)}", file=sys.stderr)
        return 1
    except MemoryError:
        print("rlpipe: error: there is not enough memory", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rlpipe: interrupted", file=sys.stderr)
        return 130
    return _write(printed.getvalue()) or code


def _open_closed() -> None:
    """Replace a stdout or stderr that the shell has closed, as in `2>&-`: Python has `None` there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _write(text: str) -> int:
    """Write to stdout and return an exit code; a closed pipe, as in `rlpipe recipes | head -1`, is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # or Python would write, and fail, again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"rlpipe: error: stdout cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _dispatch(arguments: list[str]) -> int:
    command, *rest = arguments or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if command == "--version":
        print(f"rlpipe {__version__}")
        return 0
    if command not in COMMANDS:
        raise ConfigError(f"no command is called {command!r}; {did_you_mean(command, COMMANDS)}")
    main = importlib.import_module(f"rlpipe.scripts.{command}").main
    return int(main(rest))


if __name__ == "__main__":
    sys.exit(run())
