"""Specs of every kind of space, by hand and drawn at random."""

import torch
from hypothesis import strategies as st
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded

CAMERA = (3, 40, 40)


def box(batch, shape=(3,), low=-1.0, high=2.0, dtype=torch.float32):
    return Bounded(low, high, (batch, *shape), dtype=dtype)


def discrete(batch, n=3):
    return Categorical(n, (batch,), dtype=torch.int64)


def multi_discrete(batch, nvec=(2, 4, 3)):
    nvec = torch.tensor(nvec)
    return MultiCategorical(nvec, (batch, *nvec.shape), dtype=torch.int64)


def multi_binary(batch, shape=(4,)):
    return Binary(shape[-1], (batch, *shape), dtype=torch.int8)


def entries(batch, **leaves):
    return Composite(leaves, shape=(batch,))


def every_kind(batch):
    """An observation with an entry of each kind, nested, and what `VectorEnv` counts."""
    return entries(
        batch,
        position=Unbounded((batch, 2)),
        robot=entries(batch, camera=box(batch, CAMERA, 0, 255, torch.uint8), mode=discrete(batch)),
        keys=multi_binary(batch),
        dials=multi_discrete(batch),
        step_count=Unbounded((batch, 1), dtype=torch.int64),
    )


def every_action(batch):
    """An action with an entry of each kind, nested."""
    arm = entries(batch, force=box(batch, (2,)), grip=multi_binary(batch, (2,)))
    leaves = {"move": discrete(batch), "arm": arm, "0": multi_discrete(batch, ((2, 3), (4, 2)))}
    return entries(batch, action=entries(batch, **leaves))


SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
SOME = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


@st.composite
def leaves(draw, batch, actions=False):
    """The spec of one entry: a Box of any type and bounds, Discrete, MultiDiscrete or MultiBinary."""
    kind = draw(st.sampled_from(["box", "discrete", "multi_discrete", "multi_binary"]))
    if kind == "discrete":
        return discrete(batch, draw(st.integers(1, 6)))
    if kind == "multi_discrete":
        shape = draw(SOME)
        sizes = draw(st.lists(st.integers(1, 5), min_size=9, max_size=9))
        return multi_discrete(batch, torch.tensor(sizes)[: torch.Size(shape).numel()].reshape(shape).tolist())
    if kind == "multi_binary":
        return multi_binary(batch, draw(SOME))
    types = [torch.float32, torch.float64] + ([] if actions else [torch.uint8, torch.int16, torch.int64, torch.float16])
    dtype, shape = draw(st.sampled_from(types)), (batch, *draw(SHAPES))
    if not dtype.is_floating_point:
        return Bounded(0, draw(st.integers(1, 255)), shape, dtype=dtype)
    low, high = draw(
        st.sampled_from([(-1.0, 2.0), (0.0, float("inf")), (-float("inf"), 3.0), (5.0, 5.0), (None, None)])
    )
    return Unbounded(shape, dtype=dtype) if low is None else Bounded(low, high, shape, dtype=dtype)


def specs(batch, actions=False):
    """A leaf, or a `Composite` of leaves and composites."""
    names = st.sampled_from(["a", "b", "0", "1", "robot", "observation", "action"])
    return st.recursive(
        leaves(batch, actions),
        lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3).map(lambda each: entries(batch, **each)),
        max_leaves=5,
    )
