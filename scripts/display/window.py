"""A window that shows episodes while they are recorded."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


class Window:
    """Shows images, each for a given time, until the window is closed.

    Raises:
        ConfigError: no display is available.
    """

    def __init__(self, title: str) -> None:
        import pygame

        try:
            # without a display SDL may choose a dummy driver
            if sys.platform == "linux" and not any(map(os.environ.get, _DISPLAYS)):
                raise pygame.error("neither DISPLAY nor WAYLAND_DISPLAY is set")
            pygame.display.init()
        except pygame.error as error:
            raise ConfigError(
                f"screen needs a display, and none is available ({error}); without --screen a file is written"
            ) from None
        self._pygame: Any = pygame
        self._surface: Any = None
        self._title, self._until = title, 0.0

    def show(self, image: np.ndarray, seconds: float) -> bool:
        """Show an image `[height, width, 3]` for this many seconds; returns False if the window was closed."""
        pygame = self._pygame
        if self._surface is None:
            # not earlier: closing an environment closes every pygame window
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._surface = pygame.display.set_mode(image.shape[1::-1])
        self._surface.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._until = max(self._until, time.monotonic()) + seconds
        while self._is_open() and (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self._is_open()

    def close(self) -> None:
        """Close the window, if the user has not closed it."""
        self._pygame.display.quit()

    def _is_open(self) -> bool:
        if self._surface is not None and self._pygame.display.get_init():
            closed = self._pygame.event.get(self._pygame.QUIT)
            if not closed:
                return True
            self._pygame.display.quit()
        return False
