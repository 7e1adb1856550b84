"""Any Config trains a few steps, or is refused with one line that names the field; nothing else happens, ever."""

import dataclasses
import gc
import json
import math
import multiprocessing
import re
import tempfile
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
from drawing import ALGORITHMS, JUNK, base_of, edges_of, fields_of, fits, limited, settings_of
from hypothesis import event, given, note
from hypothesis import strategies as st

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.algorithms.recipes import RECIPES, builder, config_class
from rlpipe.pipelines.algorithms.recipes.config_file import as_text, from_file
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.collectors.evaluation import MAX_EPISODE_STEPS, evaluate
from rlpipe.pipelines.config.json_form import config_from_json
from rlpipe.pipelines.envs import env_spec
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.training.loop import train

pytestmark = pytest.mark.slow

BATCHES = 2


def no_folder():
    """A run that writes nothing."""
    return mock.create_autospec(Run, instance=True, folder=None, start_from=None)


def costs_to_build(config):
    """Whether there is so much of what is allowed that it is left alone: many environments, or a large network."""
    few = 4 if config.backend == "async" or config.from_pixels else 64
    hidden = getattr(config, "hidden", ())
    return config.num_envs > few or sum(hidden) > 512


def costs_to_train(config):
    """The same for what is done with it, such as a million updates, or a compiler's work."""
    work = [getattr(config, name, 1) for name in ("updates", "epochs", "minibatch_size", "buffer_size")]
    entries = (getattr(config, "bins", None) or 1) ** 4
    frames = config.num_envs * config.rollout_steps
    return (
        frames > 4_096
        or max(work) > 4_096
        or math.prod(work[:2]) > 64
        or work[2] * getattr(config, "quantiles", 1) > 100_000
        or entries > 10**6
        or vars(config).get("compile")
    )


def named(message, names):
    """Those of the names that are in the message, as a field or as an option of the command line."""
    words = set(re.findall(r"\w+", message.replace("-", "_")))
    return words & set(names)


def check_refusal(error, changed, fields):
    message = str(error)
    assert message.splitlines() == [message], "several lines"
    wrong = [name for name, value in changed.items() if not fits(value, fields[name])]
    assert named(message, wrong or fields), f"no field is named in: {message}"


def check_divergence(message, changed):
    assert message.splitlines() == [message]
    assert re.match(r"training stopped at frame|environment \d+ of .* the policy has diverged", message), message
    assert any(isinstance(value, (float, int, tuple)) for value in changed.values())


def make(algorithm, base, changed):
    """The Config, or nothing if it was refused as it must be."""
    fields = fields_of(algorithm)
    try:
        config = config_class(algorithm)(**{**base, **changed})
    except ConfigError as error:
        check_refusal(error, changed, fields)
        return None
    # a field with a schedule gets its start, whatever it had
    scheduled = [text.partition("=")[0] for text in config.schedule]
    wrong = [name for name, value in changed.items() if name not in scheduled and not fits(value, fields[name])]
    assert not wrong, "was not refused"
    return config


def stops(rule):
    """The rule, which ends the run after some batches in any case."""
    told, batches = rule.after_batch, []

    def after_batch(*args):
        told(*args)
        batches.append(args)
        if len(batches) == BATCHES:
            rule.reason = rule.reason or "enough"

    rule.after_batch = after_batch
    return rule


def judge(pipeline, config):
    """Evaluate an episode, unless it could last for long."""
    limit = config.max_episode_steps or env_spec(config.eval_env.env_id).max_episode_steps or MAX_EPISODE_STEPS
    if limit <= 500:
        evaluate(
            pipeline.policy,
            config.eval_env,
            episodes=1,
            seed=1,
            stochastic=config.eval_stochastic,
            transforms=pipeline.transforms,
        )


def try_out(algorithm, config):
    """Build and train a little."""
    with closing(builder(algorithm)(config)) as pipeline:
        if not costs_to_train(config):
            train(pipeline, no_folder(), stopping=stops(config.stopping), log_every=config.log_every)
            judge(pipeline, config)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(data=st.data())
def test_configs(algorithm, data):
    base, changed = data.draw(settings_of(algorithm))
    fields = fields_of(algorithm)
    with limited((algorithm, base, changed)):
        config = make(algorithm, base, changed)
        if config is None or costs_to_build(config):
            event("refused" if config is None else "made")
            return
        try:
            try_out(algorithm, config)
            event("trained" if not costs_to_train(config) else "built")
        except ConfigError as error:
            event("refused by build")
            check_refusal(error, changed, fields)
        except TrainingError as error:
            # numbers may be too large for the arithmetic, but only where some are
            event("diverged")
            check_divergence(str(error), changed)
        if multiprocessing.active_children():
            gc.collect()
        assert not multiprocessing.active_children()


def json_values():
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([10**400, "\ud800"])
    )
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    )


@given(data=st.data())
def test_json(data):
    algorithm = data.draw(st.sampled_from(ALGORITHMS))
    cls, fields = config_class(algorithm), fields_of(algorithm)
    base = {**base_of(algorithm)}
    values = json.loads(json.dumps(dataclasses.asdict(cls(**base))))
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(fields)), json_values(), max_size=2))
    missing = data.draw(st.sets(st.sampled_from(sorted(fields)), max_size=1))
    unknown = data.draw(st.dictionaries(st.text(max_size=8), json_values(), max_size=1))
    values = {name: value for name, value in {**values, **unknown, **changed}.items() if name not in missing}
    note(values)
    # those that older versions lack have a value then
    unknown, missing = set(unknown) - set(fields), missing - set(completed(values))
    with limited(values):
        try:
            config = config_from_json(cls, values)
        except ConfigError as error:
            message = str(error)
            assert message.splitlines() == [message]
            if missing or unknown:
                assert any(repr(name) in message for name in (*missing, *unknown))
            else:
                assert named(message, fields)
            return
        assert not missing
        assert not unknown
        assert config_from_json(cls, json.loads(json.dumps(dataclasses.asdict(config)))) == config
        check_file(algorithm, config)


def check_file(algorithm, config):
    """What `--print-config` prints gives the config again; modules that it names are another matter."""
    recipe = next(each for each in RECIPES.values() if each.algorithm == algorithm)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "options.json")
        file.write_text(as_text(recipe, config))
        if any(":" in str(each) for each in (config.env_id, config.eval_env_id, *config.wrapper)):
            return
        assert from_file(file, None) == (recipe, config)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_field_refuses_what_it_does_not_take(algorithm):
    base = base_of(algorithm)
    for field in fields_of(algorithm).values():
        for value in [*JUNK, *edges_of(field), *((edge,) for edge in edges_of(field))]:
            with limited((algorithm, field.name)):
                make(algorithm, base, {field.name: value})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_number_has_an_upper_bound(algorithm):
    numbers = [field for field in fields_of(algorithm).values() if re.search("int|float", str(field.hint))]
    assert len(numbers) > 10
    assert [field.name for field in numbers if "at_most" not in field.bounds] == []
