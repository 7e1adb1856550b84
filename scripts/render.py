"""`rlpipe render RUN`: record episodes of a run, or of a random agent, as a GIF or an MP4."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.formatting import column
from rlpipe.pipelines.agents.limits import check_film
from rlpipe.pipelines.runs.read import read_run
from rlpipe.pipelines.training.signals import Interruption
from rlpipe.scripts.cli.options import RUN, RunOptions, parse, parse_run
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.starting import starting
from rlpipe.scripts.main import run
from rlpipe.user_files import load_trusted

if TYPE_CHECKING:
    from rlpipe.pipelines.render.player import Moment, Player
    from rlpipe.scripts.display.window import Window

DESCRIPTION = f"Draw episodes of a run's agent, or with --random of one that acts at random. {RUN}"


@dataclass(frozen=True)
class Options(RunOptions):
    """Options of `rlpipe render`."""

    out: Path | None = None
    """The new file, whose name ends in .gif or .mp4; by default agent.gif, or no file with --screen."""
    episodes: int = 1
    """Number of episodes, recorded one after the other."""
    seed: int | None = None
    """Seed of the environment's resets and of sampled actions; by default that of the run's own agent.gif."""
    fps: float | None = None
    """Steps per second; by default the environment's own rate."""
    hold: float = 1.0
    """Seconds for which the end of an episode is shown."""
    size: int = 480
    """Longest side of the image in pixels; a line below it shows the return."""
    max_steps: int = 1000
    """Cut an episode after this many steps."""
    stochastic: bool = False
    """Sample actions instead of taking the greedy ones."""
    random: str | None = None
    """Environment of an agent that acts at random, in place of a run."""
    screen: bool = False
    """Show the episodes in a window."""
    quiet: bool = False
    """Show no progress bar."""


def main(arguments: Sequence[str]) -> int:
    """Record, and print a summary."""
    if arguments and arguments[0].startswith("-") and any(each.split("=")[0] == "--random" for each in arguments):
        path, options = None, parse(Options, arguments, prog="rlpipe render", description=DESCRIPTION)
    else:
        path, options = parse_run(Options, arguments, "render", DESCRIPTION)
        if options.random is not None:
            raise ConfigError(f"random is {options.random!r}, which replaces the run; leave out {path}")
    names = ("episodes", "seed", "fps", "hold", "size", "max_steps")
    check_film(**{name: getattr(options, name) for name in names})
    summary = _render(path, options)
    print(json.dumps(summary) if options.json else printable(_describe(summary)))
    return 0


def _render(path: Path | None, options: Options) -> dict[str, Any]:
    if path is not None:
        # fails fast, before heavy imports
        read_run(path, options.trust_module)
    out = options.out or (None if options.screen else Path("agent.gif"))
    if out is not None:
        from rlpipe.pipelines.render.film import check_movie

        check_movie(out)
    load_trusted(options.trust_module)
    _check_opengl()
    if not options.screen:
        # drawing into memory needs neither, and SDL may complain about them
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

    with Interruption() as interruption:
        try:
            with _screen(shown=options.screen) as screen:
                return _film(path, out, screen, options)
        except KeyboardInterrupt:
            word = f"{interruption.word}; nothing was written"
            raise InterruptedRunError(word, interruption.exit_code) from None


def _check_opengl() -> None:
    """Import MuJoCo, if it is installed: TorchRL imports it, and the import fails if its OpenGL library is missing."""
    chosen = os.environ.get("MUJOCO_GL")
    if not chosen or importlib.util.find_spec("mujoco") is None:
        return
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # the type depends on the library
        raise ConfigError(
            f"MUJOCO_GL is {chosen!r}, with which MuJoCo cannot draw here ({error}); without a display set it to egl "
            "or osmesa, and install its library (on Debian libegl1 or libosmesa6)"
        ) from error


def _screen(*, shown: bool) -> contextlib.AbstractContextManager[Window | None]:
    if not shown:
        return contextlib.nullcontext()
    from rlpipe.scripts.display.window import Window

    return contextlib.closing(Window("rlpipe"))


def _film(path: Path | None, out: Path | None, screen: Window | None, options: Options) -> dict[str, Any]:
    with starting(str(path or options.random), quiet=options.quiet):
        from rlpipe.pipelines.agents.film import as_json, player_of, random_player
        from rlpipe.pipelines.agents.load import load
        from rlpipe.pipelines.render.player import record

    played: dict[str, Any] = {"episodes": options.episodes, "seed": options.seed, "max_steps": options.max_steps}
    agent = None if path is None else load(path, trust=options.trust_module)
    if agent is None:
        player = random_player(str(options.random), **played)
    else:
        player = player_of(agent, deterministic=not options.stochastic, **played)
    computing = contextlib.nullcontext() if agent is None else agent.computing()
    with computing, _progress(player, quiet=options.quiet) as progress:
        shown: dict[str, Any] = {"fps": options.fps, "hold": options.hold, "size": options.size}
        return as_json(record(player, out, screen=screen, progress=progress, **shown), player, agent, out)


def _describe(summary: dict[str, Any]) -> str:
    where = "shown on the screen"
    if summary["out"] is not None:
        where = f"{summary['out']}, {summary['bytes'] / 1000:,.0f} kB"
    ended = zip(column(summary["returns"]), summary["lengths"], summary["cut"], strict=True)
    episodes = [f"{earned}{f' (cut at step {steps})' if cut else ''}" for earned, steps, cut in ended]
    return (
        f"{where}: {summary['recipe'] or 'a random agent'} on {summary['env_id']}, {summary['frames']:,} frames of "
        f"{summary['width']} x {summary['height']}, return {', '.join(episodes)}"
    )


@contextlib.contextmanager
def _progress(player: Player, *, quiet: bool) -> Iterator[Callable[[Moment], None]]:
    """Show a bar of the steps; an episode that ends early counts as complete."""
    from tqdm import tqdm

    from rlpipe.pipelines.envs.arguments.known import env_spec

    limits = (
        player.max_steps,
        player.env_config.max_episode_steps,
        env_spec(player.env_config.env_id).max_episode_steps,
    )
    steps = min(limit for limit in limits if limit is not None)
    off = quiet or sys.stderr is None
    # in a file, a line every ten seconds is enough
    interval = 0.1 if not off and sys.stderr.isatty() else 10.0
    with tqdm(
        total=player.episodes * steps, desc="render", unit=" steps", disable=off, delay=1.0, mininterval=interval
    ) as bar:

        def tell(moment: Moment) -> None:
            at = moment.episode * steps if moment.last else (moment.episode - 1) * steps + moment.step
            bar.update(at - bar.n)

        yield tell


if __name__ == "__main__":
    sys.exit(run(["render", *sys.argv[1:]]))
