"""`rlpipe benchmark breakdown`: where the time of one vector step, and of one update, goes.

Parts are timed in place, by clocks around the calls that a rollout or an update makes: run alone, over and over, each
has the processor's caches to itself, and all of them together take a third less than the whole.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from tensordict import TensorDictBase
from torch import nn
from torchrl.data import ReplayBuffer

from rlpipe.pipelines import pipeline as updating
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.recipes import builder
from rlpipe.pipelines.recording import Execution, Gradient, make_gradient
from rlpipe.scripts.benchmarks.collect import Case, lean_collector
from rlpipe.scripts.benchmarks.measure import REFERENCE, Row, gather, interleave, one_thread
from rlpipe.scripts.benchmarks.solve import recipe_config

ENVIRONMENTS = (1, 8, 64, 1024)
ALGORITHMS = ("ppo", "dqn")
BATCHES = 5
"""That a pipeline collects and learns from first: replay is filled, the update recorded."""
UPDATES = 20
"""Of one call."""
ORDER = (
    *("environment", "bookkeeping", "network", "sampling", "to tensors"),
    *("minibatch", "gradient", "clip", "optimiser", "target"),
)
LESS = {"bookkeeping": "environment", "sampling": "network"}
"""Parts that are timed with another one inside them, which is taken off."""
EAGER = "gradient, eager"
"""What the recorded gradient takes the place of: for comparison, and no part of the whole."""
PLAIN = "all, without clocks"
"""The whole again, which shows what the clocks take."""
Times = dict[str, list[float]]
"""By name, one number a repetition."""


@dataclass
class Clocks:
    """Clocks by name; each adds up the seconds of the calls that it is around."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` with a clock around it."""

        def clocked(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - start
            return result

        return clocked

    def put(self, name: str, owner: object, attribute: str) -> None:
        """Put a clock around a method of this one object."""
        setattr(owner, attribute, self.around(name, getattr(owner, attribute)))


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    environments: Sequence[int] = ENVIRONMENTS,
    algorithms: Sequence[str] = ALGORITHMS,
) -> list[Row]:
    """Measure microseconds of a vector step of CartPole-v1 and of an update, as wholes and part by part.

    Args:
        against: not read; others have other parts.
        quick: 9 repetitions instead of 41.
        seeds: the first is that of environments, networks and recipes.
        progress: told of each case that is done.
        environments: numbers of them that step together.
        algorithms: recipes whose update is measured.
    """
    repeats = 9 if quick else 41

    def rows() -> Iterator[Row]:
        for number in environments:
            yield measure_step(Case("CartPole-v1", number), repeats=repeats, seed=seeds[0])
        for algorithm in algorithms:
            yield measure_update(recipe_config(algorithm, seeds[0]), algorithm, repeats=repeats)

    return gather(rows(), progress)


def measure_step(case: Case, *, repeats: int, seed: int) -> Row:
    """A vector step of the lean collector, with its share of making a TensorDict of a rollout."""
    clocks = Clocks()
    plain, clocked = lean_collector(case, seed), lean_collector(case, seed)
    clock_rollout(clocked, clocks)
    with contextlib.ExitStack() as stack:
        for collector in (plain, clocked):
            stack.callback(collector.shutdown)
        alone, beside = iter(plain), iter(clocked)
        wholes, shown = take_turns(lambda: next(alone), [(lambda: next(beside), clocks)], case.steps, repeats)
    return to_row(
        f"step of {case}", "us a vector step", wholes, shown, {"num_envs": case.num_envs, "steps": case.steps}
    )


def measure_update(config: Any, algorithm: str, *, repeats: int) -> Row:
    """An update as the algorithm's pipeline makes it, from drawing the minibatch to the target network."""
    clocks, eager_clocks = Clocks(), Clocks()
    with contextlib.ExitStack() as stack, one_thread():
        plain, clocked, eager = (
            stack.enter_context(contextlib.closing(make_pipeline(config, algorithm, *how)))
            for how in ((), (clocks, "gradient"), (eager_clocks, EAGER, "eager"))
        )
        clock_update(clocked, clocks)
        both = [(updates(clocked, clocks), clocks), (updates(eager), eager_clocks)]
        wholes, shown = take_turns(updates(plain), both, UPDATES, repeats)
    case = f"update of {algorithm}, minibatch {config.minibatch_size}"
    return to_row(case, "us an update", wholes, shown, {"algorithm": algorithm, "minibatch": config.minibatch_size})


def clock_rollout(collector: SyncDataCollector, clocks: Clocks) -> None:
    """Put clocks around what a rollout calls."""
    env, actor = collector.env.base_env, collector.policy
    clocks.put("environment", env.envs, "step")
    clocks.put("bookkeeping", env, "advance")
    clocks.put("network", actor, "through")
    clocks.put("sampling", actor, "compute")
    clocks.put("to tensors", collector, "_assemble")


def make_pipeline(
    config: Any, algorithm: str, clocks: Clocks | None = None, name: str = "", execution: Execution | None = None
) -> Pipeline:
    """The algorithm's pipeline, after it has learned from `BATCHES`.

    Args:
        config: the algorithm's.
        algorithm: one of recipes' names.
        clocks: put one around the gradient.
        name: of that clock.
        execution: of the gradient, in the place of the config's.
    """

    def make(loss: nn.Module, parameters: Sequence[nn.Parameter], usual: Execution) -> Callable[..., Gradient]:
        gradient_of = make_gradient(loss, parameters, execution or usual)
        return gradient_of if clocks is None else clocks.around(name, gradient_of)

    with mock.patch.object(updating, "make_gradient", make):
        pipeline = builder(algorithm)(config)
    for batch in itertools.islice(pipeline.collector, BATCHES):
        pipeline.learn(batch)
    return pipeline


def clock_update(pipeline: Pipeline, clocks: Clocks) -> None:
    """Put clocks around what an update calls; the gradient has one from `make_pipeline`, the clip from `updates`."""
    clocks.put("minibatch", held(pipeline.learn, "buffer"), "sample")
    clocks.put("optimiser", pipeline.state["optimizer"], "step")
    after = held(pipeline.learn, "after")
    if after:
        after[:] = [clocks.around("target", call) for call in after]


def updates(pipeline: Pipeline, clocks: Clocks | None = None) -> Callable[[], None]:
    """A function that makes `UPDATES` updates by the pipeline's own replay buffer and update."""
    buffer, update = held(pipeline.learn, "buffer"), held(pipeline.learn, "update")
    clip = updating._clip if clocks is None else clocks.around("clip", updating._clip)

    def call() -> None:
        with mock.patch.object(updating, "_clip", clip):
            for minibatch in minibatches(buffer, UPDATES):
                update(minibatch)

    return call


def minibatches(buffer: ReplayBuffer, number: int) -> Iterator[TensorDictBase]:
    """So many minibatches: epoch after epoch, where the buffer has epochs."""
    return itertools.islice(itertools.chain.from_iterable(itertools.repeat(buffer)), number)


def held(function: Callable[..., object], name: str) -> Any:
    """What a nested function, or one that it calls, holds by this name of the function around it.

    Raises:
        LookupError: nothing has that name.
    """
    variables = inspect.getclosurevars(function).nonlocals
    if name in variables:
        return variables[name]
    for inner in filter(inspect.isfunction, variables.values()):
        with contextlib.suppress(LookupError):
            return held(inner, name)
    raise LookupError(f"{function} holds nothing called {name!r}")


def take_turns(
    plain: Callable[[], object], clocked: Sequence[tuple[Callable[[], object], Clocks]], units: int, repeats: int
) -> tuple[Times, Times]:
    """Time calls with clocks in them, and in turn with them one without.

    Args:
        plain: the call without clocks.
        clocked: the same call with clocks in it, and the clocks; then other calls of which only the clocks matter.
        units: steps or updates of a call.
        repeats: timed calls of each.

    Returns:
        Microseconds of a unit: of the first clocked call as a whole, by the name of `REFERENCE`, and of the plain one,
        by that of `PLAIN`; and what each clock showed, by its name.
    """
    shown: list[list[dict[str, float]]] = [[] for _ in clocked]

    def read(call: Callable[[], object], clocks: Clocks, readings: list[dict[str, float]]) -> None:
        clocks.seconds.clear()
        call()
        readings.append(dict(clocks.seconds))

    calls = [functools.partial(read, *each, readings) for each, readings in zip(clocked, shown, strict=True)]
    others = {f"other {index}": call for index, call in enumerate(calls[1:])}
    seconds = interleave({REFERENCE: calls[0], PLAIN: plain, **others}, repeats=repeats, warmup=2)
    wholes = {name: seconds[name] for name in (REFERENCE, PLAIN)}
    # the first readings are of the warm-up
    clocks = {name: [each[name] for each in readings[-repeats:]] for readings in shown for name in readings[-1]}
    in_units = [
        {name: [1e6 * each / units for each in values] for name, values in times.items()} for times in (wholes, clocks)
    ]
    return in_units[0], in_units[1]


def to_row(case: str, unit: str, wholes: Times, shown: Times, extra: Mapping[str, Any]) -> Row:
    """The row of a whole and its parts; in each repetition `rest` is what the parts leave of the whole.

    Args:
        case: what was measured.
        unit: of all numbers.
        wholes: by the names of `REFERENCE` and `PLAIN`, one number a repetition.
        shown: what the clocks showed in the first of them; those of `LESS` with another part inside.
        extra: more about it, for the JSON file.
    """
    parts: Times = {}
    for name in (name for name in ORDER if name in shown):
        inside = shown[LESS[name]] if name in LESS else [0.0] * len(shown[name])
        parts[name] = [value - less for value, less in zip(shown[name], inside, strict=True)]
    parts["rest"] = [whole - sum(each) for whole, *each in zip(wholes[REFERENCE], *parts.values(), strict=True)]
    beside = {name: times[name] for times in (shown, wholes) for name in (EAGER, PLAIN) if name in times}
    samples = {REFERENCE: wholes[REFERENCE], **parts, **beside}
    told = {"note": f"{case}: '{EAGER}' is for comparison, no part of the whole"} if EAGER in beside else {}
    return Row(case, unit, samples, {**extra, "parts": list(parts), **told})
