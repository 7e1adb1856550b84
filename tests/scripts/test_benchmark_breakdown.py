"""The breakdown benchmark: its clocks, shown by a time that ticks once a look; and that they change nothing."""

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import torch

from rlpipe.pipelines import pipeline as updating
from rlpipe.scripts.benchmarks import breakdown
from rlpipe.scripts.benchmarks.breakdown import EAGER, PLAIN, UPDATES, Clocks, held, make_pipeline, run, to_row
from rlpipe.scripts.benchmarks.collect import Case, lean_collector
from rlpipe.scripts.benchmarks.solve import recipe_config

STEP_PARTS = ["environment", "bookkeeping", "network", "sampling", "to tensors", "rest"]
UPDATE_PARTS = {
    "ppo": ["minibatch", "gradient", "clip", "optimiser", "rest"],
    "dqn": ["minibatch", "gradient", "clip", "optimiser", "target", "rest"],
}


@pytest.fixture
def ticking(monkeypatch):
    """A time that goes on by 1 whenever a clock looks at it: one around a call without clocks in it shows 1."""
    ticks = itertools.count()
    monkeypatch.setattr(breakdown, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def test_run_measures_steps_and_updates():
    told = []
    rows = run(
        against=["torchrl"], quick=True, seeds=[3], progress=told.append, environments=[1, 3], algorithms=["ppo", "dqn"]
    )
    assert [(row.case, row.unit) for row in rows] == [
        ("step of CartPole-v1, 1 environment", "us a vector step"),
        ("step of CartPole-v1, 3 environments", "us a vector step"),
        ("update of ppo, minibatch 128", "us an update"),
        ("update of dqn, minibatch 256", "us an update"),
    ]
    assert len(told) == 4
    for row, parts in zip(rows, [STEP_PARTS, STEP_PARTS, *UPDATE_PARTS.values()], strict=True):
        beside = [PLAIN] if parts is STEP_PARTS else [EAGER, PLAIN]
        assert list(row.samples) == ["rlpipe", *parts, *beside]
        assert row.extra["parts"] == parts
        assert {len(samples) for samples in row.samples.values()} == {9}
        assert all(sample > 0 for samples in row.samples.values() for sample in samples)
        for whole, *shares in zip(row.samples["rlpipe"], *(row.samples[part] for part in parts), strict=True):
            assert sum(shares) == pytest.approx(whole, rel=1e-9)
        assert ("no part of the whole" in row.extra.get("note", "")) == (EAGER in beside)


def test_parts_inside_others_are_taken_off_and_the_rest_is_what_is_left():
    wholes = {"rlpipe": [20.0, 30.0], PLAIN: [19.0, 28.0]}
    shown = {"bookkeeping": [7.0, 9.0], "environment": [5.0, 6.0], "clip": [2.0, 1.0], EAGER: [50.0, 60.0]}
    row = to_row("one", "us", wholes, shown, {"size": 1})
    assert row.samples == {
        "rlpipe": [20.0, 30.0],
        "environment": [5.0, 6.0],
        "bookkeeping": [2.0, 3.0],
        "clip": [2.0, 1.0],
        "rest": [11.0, 20.0],
        EAGER: [50.0, 60.0],
        PLAIN: [19.0, 28.0],
    }
    assert list(row.samples) == ["rlpipe", "environment", "bookkeeping", "clip", "rest", EAGER, PLAIN]
    assert row.extra["size"] == 1


@pytest.mark.usefixtures("ticking")
def test_calls_take_turns_and_clocks_begin_anew():
    clocks, other, order = Clocks(), Clocks(), []

    def call(name, clocks):
        inner = clocks.around(name, lambda: order.append(name))
        return lambda: [inner(), inner()]

    plain = lambda: order.append("plain")  # noqa: E731
    wholes, shown = breakdown.take_turns(plain, [(call("a", clocks), clocks), (call("b", other), other)], 4, 3)
    assert order == ["a", "a", "plain", "b", "b"] * 5
    assert shown == {"a": [0.5e6] * 3, "b": [0.5e6] * 3}
    assert {name: len(values) for name, values in wholes.items()} == {"rlpipe": 3, PLAIN: 3}


@pytest.mark.usefixtures("ticking")
def test_clocks_of_a_rollout_show_every_call_and_change_nothing():
    case, clocks = Case("CartPole-v1", 3), Clocks()
    plain, clocked = lean_collector(case, 5), lean_collector(case, 5)
    breakdown.clock_rollout(clocked, clocks)
    with (
        contextlib.closing(SimpleNamespace(close=plain.shutdown)),
        contextlib.closing(SimpleNamespace(close=clocked.shutdown)),
    ):
        assert (next(iter(plain)) == next(iter(clocked))).all()
    # with a clock inside, a clock looks on while the other looks twice
    assert clocks.seconds == {
        "environment": case.steps,
        "bookkeeping": 3 * case.steps,
        "network": case.steps,
        "sampling": 3 * case.steps,
        "to tensors": 1,
    }


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_clocks_of_an_update_show_every_call_and_change_nothing(algorithm):
    config, clocks, eager_clocks = recipe_config(algorithm, 5), Clocks(), Clocks()
    ways = {"plain": (), "clocked": (clocks, "gradient"), "eager": (eager_clocks, EAGER, "eager")}
    with contextlib.ExitStack() as stack:
        pipelines = {
            name: stack.enter_context(contextlib.closing(make_pipeline(config, algorithm, *how)))
            for name, how in ways.items()
        }
        breakdown.clock_update(pipelines["clocked"], clocks)
        for each in (clocks, eager_clocks):
            each.seconds.clear()
        clip = updating._clip
        for name, pipeline in pipelines.items():
            breakdown.updates(pipeline, clocks if name == "clocked" else None)()
            assert updating._clip is clip
    assert clocks.seconds == dict.fromkeys(UPDATE_PARTS[algorithm][:-1], UPDATES)
    assert eager_clocks.seconds == {EAGER: UPDATES}
    plain, *others = (
        torch.nn.utils.parameters_to_vector(each.state["loss"].parameters()) for each in pipelines.values()
    )
    assert all(torch.equal(plain, other) for other in others)
    # what is compared are a recording, under way, and autograd
    assert held(pipelines["plain"].learn, "gradient_of")._recordings
    assert held(pipelines["clocked"].learn, "call")._recordings
    assert not hasattr(held(held(pipelines["eager"].learn, "gradient_of"), "call"), "_recordings")


def test_what_no_function_holds_is_an_error():
    inside = [1]

    def inner():
        return inside

    def outer():
        return inner()

    assert held(outer, "inside") is inside
    with pytest.raises(LookupError, match="'nothing'"):
        held(outer, "nothing")
