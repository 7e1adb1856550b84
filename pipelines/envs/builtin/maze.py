"""`rlpipe/Maze-v0`: 3 x 3 cells with walls, and only the open moves allowed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from rlpipe.errors import ConfigError, RlpipeError

NAMES = ("up", "right", "down", "left")
UP, RIGHT, DOWN, LEFT = range(4)
START, GOAL, SIDE = 0, 8, 3

# cells are numbered row by row; the goal has no moves, the episode ends there
OPEN_MOVES = {
    0: (RIGHT, DOWN),
    1: (RIGHT, LEFT),
    2: (DOWN, LEFT),
    3: (UP,),
    4: (RIGHT, DOWN),
    5: (UP, LEFT),
    6: (RIGHT,),
    7: (UP, RIGHT, LEFT),
}
_DESTINATION = {UP: -SIDE, RIGHT: 1, DOWN: SIDE, LEFT: -1}

# in pixels; the image is 240 x 240, and video codecs like multiples of 16
_CELL, _WALL = 72, 6
_PITCH = _CELL + _WALL
_FLOOR, _START_TINT, _GOAL_TINT, _AGENT = (255, 255, 255), (253, 232, 190), (150, 215, 150), (45, 95, 185)


class ForbiddenActionError(RlpipeError, ValueError):
    """A move into a wall, or an action that is not one of the four."""


class _OpenMoves(Discrete):
    """Discrete(4) that samples among the moves open now, so that a random agent never takes a forbidden one."""

    def __init__(self) -> None:
        super().__init__(len(NAMES))
        self.open = _mask(START)

    def sample(self, mask: np.ndarray | None = None, probability: np.ndarray | None = None) -> np.int64:
        return super().sample(self.open if mask is None and probability is None else mask, probability)


class Maze(gym.Env[dict[str, Any], np.int64]):
    """From the top left cell (0) to the bottom right one (8); the shortest way is 0-1-2-5-4-7-8.

    The observation is `{"observation": cell, "action_mask": int8 [4]}`, 1 for the moves open in the cell. The goal's
    mask is all ones: the episode has ended, and no distribution over actions should ever be empty. Actions are 0 up,
    1 right, 2 down, 3 left. The reward is 1 for the step into the goal, which terminates the episode, and else 0.

    `action_space.sample()` draws among the moves open in the present cell.

    Args:
        render_mode: `rgb_array` (uint8 `[240, 240, 3]`), `ansi` (a drawing in characters) or none.

    Raises:
        ConfigError: another render mode.
        ForbiddenActionError: from `step`, for an action that is not open in the present cell.
        gymnasium.error.ResetNeeded: from `step`, at the goal.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    action_space: _OpenMoves

    def __init__(self, render_mode: str | None = None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode is {render_mode!r}; the maze has {' and '.join(modes)}")
        self.render_mode = render_mode
        self.action_space = _OpenMoves()
        self.observation_space = Dict(
            {"observation": Discrete(SIDE**2), "action_mask": Box(0, 1, (len(NAMES),), np.int8)}
        )
        self._cell = START

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self._enter(START), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._cell == GOAL:
            raise gym.error.ResetNeeded("the maze's episode ended at the goal (state 8): call reset()")
        if action not in self.action_space or action not in OPEN_MOVES[self._cell]:
            raise ForbiddenActionError(_refusal(action, self._cell))
        observation = self._enter(self._cell + _DESTINATION[int(action)])
        terminated = self._cell == GOAL
        return observation, float(terminated), terminated, False, {}

    def get_state(self) -> dict[str, int]:
        """The agent's cell."""
        return {"cell": self._cell}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue from a `get_state`."""
        if state["cell"] not in {*OPEN_MOVES, GOAL}:
            raise ValueError(f"cell is {state['cell']!r}, which is not an open cell of the maze")
        self._enter(state["cell"])

    def _enter(self, cell: int) -> dict[str, Any]:
        self._cell = cell
        self.action_space.open = _mask(cell)
        return {"observation": cell, "action_mask": _mask(cell)}

    def render(self) -> Any:
        """Draw the maze in its render mode, if it has one."""
        if self.render_mode == "rgb_array":
            return _draw_image(self._cell)
        return _draw_text(self._cell) if self.render_mode == "ansi" else None


def _mask(cell: int) -> np.ndarray:
    moves = OPEN_MOVES.get(cell, range(len(NAMES)))
    return np.isin(np.arange(len(NAMES)), moves).astype(np.int8)


def _refusal(action: Any, cell: int) -> str:
    name = f" ({NAMES[int(action)]})" if Discrete(len(NAMES)).contains(action) else ""
    allowed = ", ".join(f"{NAMES[move]} ({move})" for move in OPEN_MOVES[cell])
    return f"action {action}{name} is forbidden in state {cell}; allowed: {allowed}"


def _has_passage(cell: int, move: int) -> bool:
    """Whether there is no wall; for right and down only, because every passage is open in one of these directions."""
    return move in OPEN_MOVES.get(cell, ())


def _draw_text(agent: int) -> str:
    letters = {START: "S", GOAL: "G", agent: "A"}
    lines = ["+---" * SIDE + "+"]
    for row in range(SIDE):
        cells = range(row * SIDE, (row + 1) * SIDE)
        sides = "".join(f" {letters.get(cell, ' ')} " + (" " if _has_passage(cell, RIGHT) else "|") for cell in cells)
        floor = "".join(("   " if _has_passage(cell, DOWN) else "---") + "+" for cell in cells)
        lines += ["|" + sides, "+" + floor]
    return "\n".join(lines) + "\n"


def _draw_image(agent: int) -> np.ndarray:
    size = SIDE * _PITCH + _WALL
    image = np.zeros((size, size, 3), dtype=np.uint8)
    tints = {START: _START_TINT, GOAL: _GOAL_TINT}
    for cell in range(SIDE**2):
        top, left = _corner(cell)
        image[top : top + _CELL, left : left + _CELL] = tints.get(cell, _FLOOR)
        if _has_passage(cell, RIGHT):
            image[top : top + _CELL, left + _CELL : left + _PITCH] = _FLOOR
        if _has_passage(cell, DOWN):
            image[top + _CELL : top + _PITCH, left : left + _CELL] = _FLOOR
    _draw_disc(image, *_corner(agent))
    return image


def _corner(cell: int) -> tuple[int, int]:
    return _WALL + cell // SIDE * _PITCH, _WALL + cell % SIDE * _PITCH


def _draw_disc(image: np.ndarray, top: int, left: int) -> None:
    """Blend the agent into the cell whose first pixel is `[top, left]`, with a rim one pixel soft."""
    offset = np.arange(_CELL) - (_CELL - 1) / 2
    distance = np.hypot(offset[:, None], offset)
    cover = np.clip(0.33 * _CELL + 0.5 - distance, 0, 1)[..., None]
    cell = image[top : top + _CELL, left : left + _CELL]
    cell[:] = np.rint(cell + cover * (np.array(_AGENT) - cell))
