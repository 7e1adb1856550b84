"""Films as files: GIF, and MP4 through `imageio-ffmpeg`. A file appears when it is complete, and replaces no other."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from rlpipe.errors import ConfigError, RlpipeError, exists_already
from rlpipe.pipelines.checkpoints.durable_files import publish

RATES = {".gif": 50.0, ".mp4": 60.0}
"""The most images a second of each kind of file; GIF viewers slow down faster films."""
_FEW = 20_000
_HEADER = b"\x70\x00\x00!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


class Film(Protocol):
    """Takes images one by one."""

    def add(self, image: np.ndarray, ticks: int) -> None:
        """Show an image, uint8 `[height, width, 3]`, of the size of the first one, for `ticks` ticks of the rate."""

    def close(self) -> None:
        """Write what is left; raises OSError unless the whole film is in its file."""


def check_movie(path: Path) -> None:
    """Refuse a path that cannot become a film, before anything is drawn.

    Raises:
        ConfigError: it ends in neither `.gif` nor `.mp4`, or exists, or its folder does not exist, or an extra is
            missing.
    """
    if path.suffix.lower() not in RATES:
        raise ConfigError(f"out is {path}; expected a name that ends in {' or '.join(RATES)}")
    if os.path.lexists(path):
        raise exists_already("out", path)
    if not path.parent.is_dir():
        raise ConfigError(f"out is {path}, and there is no folder {path.parent}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError('out ends in .mp4, which needs an extra: pip install "rlpipe[video]"')


@contextlib.contextmanager
def new_movie(path: Path, size: tuple[int, int], rate: float) -> Iterator[Film]:
    """A film that gets its name at the end of the block; after an error nothing of it is left.

    Args:
        path: the new file, `.gif` or `.mp4`.
        size: width and height in pixels; of an MP4 both are even.
        rate: ticks a second, at most that of `RATES`.

    Raises:
        ConfigError: as `check_movie`.
        RlpipeError: the file cannot be written.
    """
    check_movie(path)
    # its ending tells ffmpeg what to write
    stage = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        film: Film = _Mp4(stage, size, rate) if path.suffix.lower() == ".mp4" else _Gif(stage, size, rate)
        try:
            yield film
        except BaseException:
            with contextlib.suppress(Exception):
                film.close()
            raise
        film.close()
        publish(stage, path)
    except OSError as error:
        raise RlpipeError(f"{path} cannot be written: {error.strerror or 'ffmpeg failed'}") from error
    finally:
        stage.unlink(missing_ok=True)


class _Gif:
    """Each image holds the pixels that changed since the last one, with a separate palette."""

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        self._stream: IO[bytes] = path.open("xb")
        self._rate, self._ticks = rate, 0
        self._last: np.ndarray | None = None
        width, height = size
        self._write(b"GIF89a", width.to_bytes(2, "little"), height.to_bytes(2, "little"), _HEADER)

    def add(self, image: np.ndarray, ticks: int) -> None:
        start = round(100 * self._ticks / self._rate)
        self._ticks += ticks
        # hundredths of a second, rounded such that errors do not add up
        delay = round(100 * self._ticks / self._rate) - start
        changed = np.ones(image.shape[:2], bool) if self._last is None else (image != self._last).any(-1)
        self._last = image
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        top, left = (int(rows[0]), int(columns[0])) if len(rows) else (0, 0)
        bottom, right = (int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else (1, 1)
        window = (slice(top, bottom), slice(left, right))
        self._write(*_encode(image[window], changed[window], (left, top), delay))

    def close(self) -> None:
        with self._stream:
            self._write(b";")

    def _write(self, *parts: bytes) -> None:
        self._stream.write(b"".join(parts))


def _encode(image: np.ndarray, changed: np.ndarray, offset: tuple[int, int], delay: int) -> list[bytes]:
    """A block of a GIF that draws the pixels of `changed` `[height, width]`, and keeps the others."""
    from PIL import GifImagePlugin, Image  # noqa: PLC0415 - only needed here

    pixels = image[changed]
    colors, indices = _reduce(pixels, 63 if len(pixels) < _FEW else 255)
    clear = len(colors)
    drawn = np.full(changed.shape, clear, np.uint8)
    drawn[changed] = indices
    block = Image.fromarray(drawn).convert("L")
    block.putpalette([*colors.ravel().tolist(), 0, 0, 0])
    return GifImagePlugin.getdata(
        block, offset, duration=10 * delay, transparency=clear, disposal=1, include_color_table=True
    )


def _reduce(pixels: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` colours, uint8 `[n, 3]`, for pixels `[m, 3]`, and the index of each pixel's colour, `[m]`."""
    from PIL import Image  # noqa: PLC0415 - only needed here

    red, green, blue = pixels.astype(np.int32).T
    packed, indices = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(packed) <= most:
        return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(np.uint8), indices
    reduced = Image.fromarray(pixels[None]).quantize(most)
    palette = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)
    return palette[:most], np.asarray(reduced)[0]


class _Mp4:
    """H.264, which every player supports."""

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        import imageio_ffmpeg  # noqa: PLC0415 - an extra

        # a folder that cannot be written raises Python's error here
        path.open("xb").close()
        self._writer: Any = imageio_ffmpeg.write_frames(
            str(path),
            size,
            fps=rate,
            codec="libx264",
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="quiet",
            output_params=["-crf", "23", "-movflags", "+faststart"],
        )
        self._writer.send(None)
        self._path, self._images = path, 0

    def add(self, image: np.ndarray, ticks: int) -> None:
        for _ in range(ticks):
            self._writer.send(np.ascontiguousarray(image))
            self._images += 1

    def close(self) -> None:
        import imageio_ffmpeg  # noqa: PLC0415 - an extra

        self._writer.close()
        # ffmpeg does not report errors while it ends the file
        try:
            images, _ = imageio_ffmpeg.count_frames_and_secs(str(self._path))
        except RuntimeError as error:
            raise OSError(errno.EIO, "ffmpeg left a file that cannot be read") from error
        if images != self._images:
            raise OSError(errno.EIO, f"ffmpeg left {images} of {self._images} images")
