"""Films of an agent, as `rlpipe render` and `agent.render` make them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.pipelines.envs import EnvConfig
from rlpipe.pipelines.envs.rendering import check_drawable
from rlpipe.pipelines.render.player import Player, Recording
from rlpipe.pipelines.seeding import Seeds

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent


def player_of(agent: Agent, *, episodes: int, seed: int | None, deterministic: bool, max_steps: int) -> Player:
    """What plays an agent's episodes; without a seed, by that of the run's own `agent.gif`.

    Raises:
        ConfigError: the environment cannot be drawn.
    """
    settings = agent.settings
    check_drawable(settings.eval_env)
    return Player(
        settings.eval_env,
        agent.policy,
        Seeds(settings.seed).integer("gif") if seed is None else seed,
        agent.transforms,
        stochastic=not deterministic,
        episodes=episodes,
        max_steps=max_steps,
    )


def random_player(env_id: str, *, episodes: int, seed: int | None, max_steps: int) -> Player:
    """What plays episodes of an agent that acts at random; without a seed, by seed 0.

    Raises:
        ConfigError: the environment cannot be drawn.
    """
    env = EnvConfig(env_id)
    check_drawable(env)
    return Player(env, None, seed or 0, episodes=episodes, max_steps=max_steps)


def as_json(made: Recording, player: Player, agent: Agent | None, out: Path | None) -> dict[str, Any]:
    """What was recorded, as `rlpipe render --json` prints it; `None` is an agent that acts at random."""
    return {
        "recipe": None if agent is None else agent.recipe,
        "env_id": player.env_config.env_id,
        "checkpoint": None if agent is None else str(agent.checkpoint),
        "stochastic": player.stochastic,
        "seed": player.seed,
        "out": None if out is None else str(out),
        "bytes": None if out is None else out.stat().st_size,
        "frames": made.images,
        "width": made.size[0],
        "height": made.size[1],
        "returns": [episode.earned for episode in made.episodes],
        "lengths": [episode.steps for episode in made.episodes],
        "cut": [episode.cut for episode in made.episodes],
    }
