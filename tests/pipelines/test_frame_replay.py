"""A buffer that keeps each frame once gives what one of whole stacks gives, and never a stack across an edge."""

import pytest
import torch
from counting import HEIGHT, STACK, WIDTH, counting
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe.modules import NStep
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.frame_replay import FrameReplay

SHAPE = (STACK, HEIGHT, WIDTH)
KEYS = ["action", "observation", ("next", "observation"), ("next", "reward"), ("next", "discount")]
STARTS = {"repeated": 1, "zeros": 2, "before": STACK}
"""How the first observation of an episode begins, and how many frames it has that differ."""
LENGTHS = {
    "one step": (1,),
    "shorter than a stack": (2, 3),
    "up to a batch's edge": (7,),
    "longer than a batch": (23, 16),
    "all": (1, 2, 7, 40, 14, 3),
}


class Played:
    """Batches of counting environments, of any number of steps, and of one worker."""

    def __init__(self, lengths, start="repeated", envs=3, worker=None):
        self.env, self.worker = make_env(EnvConfig(counting(tuple(lengths), start), envs), seed=0), worker
        self.root = self.env.reset()

    def batch(self, steps=7):
        rows = []
        for _ in range(steps):
            step, self.root = self.env.step_and_maybe_reset(self.env.rand_action(self.root.clone()))
            rows.append(step)
        batch = torch.stack(rows, 1).contiguous()
        if self.worker is not None:
            batch.set(("collector", "worker"), torch.full(batch.shape, self.worker))
        return batch


def whole(capacity, size=32):
    return ReplayBuffer(
        storage=LazyTensorStorage(capacity), batch_size=size, generator=torch.Generator().manual_seed(3)
    )


def framed(capacity, size=32, **options):
    return FrameReplay(capacity, SHAPE, batch_size=size, generator=torch.Generator().manual_seed(3), **options)


def flat(batch):
    return batch.select(*KEYS).reshape(-1)


def store(buffer, batch, n=1):
    look_ahead = NStep(gamma=0.9, n=n)
    buffer.extend(flat(look_ahead(buffer.number(batch) if isinstance(buffer, FrameReplay) else batch)))


def gone(buffer):
    return len(buffer) - len(buffer.sampler.kept(len(buffer)))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_minibatches_are_those_of_whole_stacks(lengths, start, n):
    played, stacks = Played(LENGTHS[lengths], start), whole(120)
    # as many frames as the shortest episodes may take
    frames = framed(120, num_frames=120 * (STACK + 1) + 100)
    for _ in range(30):
        batch = played.batch()
        store(frames, batch, n)
        store(stacks, batch, n)
        assert not gone(frames)
        ours, theirs = frames.sample(), stacks.sample()
        assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
        assert (ours == theirs).all()
