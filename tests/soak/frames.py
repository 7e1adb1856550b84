"""What replay of pixels costs: bytes, and the rates of storing and sampling, whole stacks beside frames kept once.

`python tests/soak/frames.py --transitions 1000000` fills a buffer of frames of that many transitions in memory and one
on the disk, and prints a table; the buffer of whole stacks holds 20,000, because a million would take 56 GB. Frames are
84 x 84, random, so that no page of memory is left out.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from collections.abc import Callable
from statistics import median

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe.pipelines.replay.image_buffer import ImageReplay

SHAPE = (4, 84, 84)
KEYS = ["action", "observation", ("next", "observation"), ("next", "reward"), ("next", "terminated")]
ENVS, STEPS, EPISODE, MINIBATCH = 8, 128, 1024, 32
WHOLE, MEMORY, DISK = "whole stacks, LazyTensorStorage", "frames, in memory", "frames, on the disk"


class Player:
    """Batches `[ENVS, STEPS]` of random frames, in episodes of `EPISODE` steps, in memory as the collector has them."""

    def __init__(self) -> None:
        self.drawn, self.steps = torch.randint(0, 256, (ENVS, 4096, *SHAPE[1:]), dtype=torch.uint8), 0

    def batch(self) -> TensorDict:
        """The next."""
        # another part of what was drawn, and another offset to each number, so that no frame comes twice
        begin = int(torch.randint(0, 4096 - STEPS - 8, ()))
        frames = self.drawn[:, begin : begin + STEPS + 4] + self.steps % 251
        if self.steps % EPISODE:
            frames[:, :4] = self.tail
        self.tail, self.steps = frames[:, -4:].clone(), self.steps + STEPS
        stacks = frames.unfold(1, 4, 1).movedim(-1, 2)
        root, last = (each.transpose(0, 1).contiguous().transpose(0, 1) for each in (stacks[:, :-1], stacks[:, 1:]))
        ends = torch.zeros(ENVS, STEPS, 1, dtype=torch.bool)
        after = {"observation": last, "reward": torch.zeros(ENVS, STEPS, 1), "terminated": ends}
        entries = {"observation": root, "action": torch.zeros(ENVS, STEPS, dtype=torch.int64), "next": after}
        return TensorDict(entries, [ENVS, STEPS])


def resident() -> int:
    """Bytes of memory that the process has of its own, without files that are mapped."""
    with open("/proc/self/status", encoding="utf-8") as stream:
        lines = dict(line.split(":", 1) for line in stream)
    return int(lines["RssAnon"].split()[0]) * 1024


def disk() -> int:
    """Bytes of the disk that files without a name of this process take."""
    found = {}
    with open("/proc/self/maps", encoding="utf-8") as stream:
        for line in stream:
            if "rlpipe-frames" in line:
                low, high = (int(each, 16) for each in line.split()[0].split("-"))
                found[low] = high - low
    return sum(found.values())


def seconds(call: Callable[[], object], times: int) -> list[float]:
    """Of each of some calls."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def make(kept: str, transitions: int) -> ReplayBuffer:
    """An empty buffer."""
    if kept == WHOLE:
        return ReplayBuffer(storage=LazyTensorStorage(transitions), batch_size=MINIBATCH)
    return ImageReplay(transitions, SHAPE, on_disk=kept == DISK, batch_size=MINIBATCH)


def fill(buffer: ReplayBuffer, player: Player, batches: int) -> list[float]:
    """Store some batches; returns the seconds that each took."""
    number = buffer.number if isinstance(buffer, ImageReplay) else lambda batch: batch
    taken = []
    for _ in range(batches):
        batch = player.batch()
        taken += seconds(lambda batch=batch: buffer.extend(number(batch).select(*KEYS).reshape(-1)), 1)
    return taken


def measure(kept: str, transitions: int) -> None:
    """Fill a buffer, sample from it, and print its row."""
    torch.set_num_threads(1)
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    player = Player()
    # what comes and goes with a batch is no part of the buffer
    fill(make(kept, ENVS * STEPS), player, 3)
    before, buffer = resident(), make(kept, transitions)
    # once round, and on
    extends = fill(buffer, player, -(-transitions // (ENVS * STEPS)) + 20)
    samples = seconds(buffer.sample, 2000)
    took = ENVS * STEPS / median(extends[-20:])
    print(
        f"| {kept} | {transitions:,} | {(resident() - before) / 1e9:.2f} GB | {disk() / 1e9:.2f} GB "
        f"| {1 / median(samples):,.0f} | {median(samples) * 1e3:.3f} ms | {took:,.0f} |",
        flush=True,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--whole", type=int, default=20_000)
    transitions, whole = vars(parser.parse_args()).values()
    print("| kept | transitions | memory | disk | minibatches of 32 a second | one takes | frames stored a second |")
    print("|---|---|---|---|---|---|---|")
    # a process each, so that none has the other's memory
    start = multiprocessing.get_context("spawn")
    for kept, size in [(WHOLE, whole), (MEMORY, transitions), (DISK, transitions)]:
        process = start.Process(target=measure, args=(kept, size))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{kept}, {size:,}: ended with {process.exitcode}")


if __name__ == "__main__":
    main()
