"""A window that shows a film while it is made."""

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
    """Shows images, each for its time, until it is closed.

    Args:
        title: of the window.

    Raises:
        ConfigError: there is no display.
    """

    def __init__(self, title: str) -> None:
        # it greets on stdout
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        try:
            # SDL may draw into nowhere instead
            if sys.platform == "linux" and not any(map(os.environ.get, _DISPLAYS)):
                raise pygame.error("neither DISPLAY nor WAYLAND_DISPLAY is set")
            pygame.display.init()
        except pygame.error as error:
            raise ConfigError(
                f"screen needs a display, and there is none here ({error}); without --screen a file is written"
            ) from None
        self._pygame: Any = pygame
        self._surface: Any = None
        self._title, self._until = title, 0.0

    def show(self, image: np.ndarray, seconds: float) -> bool:
        """Show an image `[height, width, 3]` for so long; False once the window was closed."""
        pygame = self._pygame
        if self._surface is None:
            # only now, because an environment that was closed has closed every window with it
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
        """Close the window, if its user has not."""
        self._pygame.display.quit()

    def _is_open(self) -> bool:
        if self._surface is not None and self._pygame.display.get_init():
            closed = self._pygame.event.get(self._pygame.QUIT)
            if not closed:
                return True
            self._pygame.display.quit()
        return False
