"""Images of episodes, scaled and with a caption below."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

SIZE = 480
"""The longest side of a picture, in pixels, before the caption is added."""
_LINE, _MARGIN, _LARGEST_FONT, _SMALLEST_FONT = 22, 8, 15, 7
_LEAST_WIDTH = 96
_BAND, _INK = (24, 27, 33), (238, 240, 243)


class Caption:
    """Scales images and writes texts below; all results have one size, with even sides.

    Small images are enlarged by a whole factor, pixel by pixel; those larger than `size` are shrunk.

    Args:
        shape: height and width of the images.
        longest: about the longest texts; decides whether they share a line.
        size: the longest side of the scaled image.
    """

    def __init__(self, shape: tuple[int, int], longest: tuple[str, ...], size: int = SIZE) -> None:
        height, width = shape
        factor = size / max(height, width)
        factor = float(int(factor)) if factor >= 1 else factor
        self._scaled = (max(1, round(width * factor)), max(1, round(height * factor)))
        self._shrinks = factor < 1
        width = max(self._scaled[0], _LEAST_WIDTH)
        self._columns = next((n for n in (len(longest), 1) if self._fits(longest, width // n)), 1)
        lines = math.ceil(len(longest) / self._columns)
        band = lines * _LINE + _MARGIN // 2
        # H.264 needs even sides
        self.size = (width + width % 2, self._scaled[1] + band + (self._scaled[1] + band) % 2)

    def draw(self, image: np.ndarray, texts: tuple[str, ...]) -> np.ndarray:
        """The image `[height, width, 3]` scaled, and the texts below; uint8 `[*size[::-1], 3]`."""
        from PIL import Image, ImageDraw  # noqa: PLC0415 - only needed here

        how = Image.Resampling.BOX if self._shrinks else Image.Resampling.NEAREST
        picture = Image.fromarray(image)
        if picture.size != self._scaled:
            picture = picture.resize(self._scaled, how)
        drawn = Image.new("RGB", self.size, _BAND)
        drawn.paste(picture, ((self.size[0] - self._scaled[0]) // 2, 0))
        pen = ImageDraw.Draw(drawn)
        column = self.size[0] // self._columns
        for index, text in enumerate(texts):
            place = (index % self._columns * column + _MARGIN, index // self._columns * _LINE + _LINE // 2 + 2)
            pen.text((place[0], self._scaled[1] + place[1]), text, _INK, self._font(text, column), anchor="lm")
        return np.asarray(drawn)

    @staticmethod
    def _fits(texts: tuple[str, ...], width: int) -> bool:
        return all(_font(_LARGEST_FONT - 2).getlength(text) <= width - _MARGIN for text in texts)

    @staticmethod
    def _font(text: str, width: int) -> Any:
        """The largest font in which a text fits."""
        sizes = range(_LARGEST_FONT, _SMALLEST_FONT, -1)
        fonts = (_font(size) for size in sizes)
        return next((font for font in fonts if font.getlength(text) <= width - _MARGIN), _font(_SMALLEST_FONT))


@functools.cache
def _font(size: int) -> Any:
    """Matplotlib's font, whose digits have one width, so that changing numbers do not move."""
    import matplotlib  # noqa: PLC0415 - only needed here
    from PIL import ImageFont  # noqa: PLC0415 - only needed here

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
