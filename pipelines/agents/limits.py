"""The numbers that evaluations and films take. Imports nothing heavy."""

from __future__ import annotations

from rlpipe.errors import ConfigError, shown


def check_evaluation(*, episodes: object, seed: object, eval_envs: object) -> None:
    """Check the numbers of an evaluation; a seed and the number of environments may be `None`.

    Raises:
        ConfigError: names the one that is not allowed.
    """
    _check("episodes", episodes, 1, 1_000_000)
    _check("eval_envs", 1 if eval_envs is None else eval_envs, 1, 1_000)
    _check_seed(seed)


def check_film(*, episodes: object, seed: object, fps: object, hold: object, size: object, max_steps: object) -> None:
    """Check the numbers of a film; its seed and its steps per second may be `None`.

    Raises:
        ConfigError: names the one that is not allowed.
    """
    _check("episodes", episodes, 1, 1_000)
    _check("fps", 1 if fps is None else fps, 0.1, 1_000, whole=False)
    _check("hold", hold, 0, 60, whole=False)
    _check("size", size, 32, 4_096)
    _check("max_steps", max_steps, 1, 1_000_000)
    _check_seed(seed)


def _check(name: str, value: object, least: float, most: float, *, whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(f"{name} is {shown(value)}; expected a {'whole ' * whole}number")
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}; allowed is {least} or more and at most {most}")


def _check_seed(seed: object) -> None:
    if seed is None:
        return
    if type(seed) is not int:
        raise ConfigError(f"seed is {shown(seed)}; expected a whole number")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}; allowed is 0 or more, below 2^63")
