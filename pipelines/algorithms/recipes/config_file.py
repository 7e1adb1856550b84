"""Options from a file, for `rlpipe train --config`: JSON, YAML, or a run's `config.json`. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from rlpipe.errors import ConfigError, first_line, shown
from rlpipe.pipelines.algorithms.recipes import Recipe, find_recipe, recipe_of_run
from rlpipe.pipelines.algorithms.recipes.source import named_source
from rlpipe.pipelines.checkpoints.durable_files import read_plain
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.read import trusted_description

_YAML = (".yaml", ".yml")
SUFFIXES = (".json", *_YAML)
_RECIPE = "recipe"
_EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+")
_LOG = logging.getLogger("rlpipe")


def from_file(path: Path, named: Recipe | None, trusted: Collection[str] = ()) -> tuple[Recipe, Any]:
    """The recipe and the Config in a file.

    Its options are those of the recipe's Config, under the same names, beside `recipe`; what it leaves out is the
    recipe's. A run's `config.json` has all of them.

    Args:
        path: of the file; it is YAML if its name ends in `.yaml` or `.yml`.
        named: the recipe that was named beside it, which must be the file's; of a file that names none it is used.
        trusted: modules and files that its environment and its algorithm may come from; they are imported.

    Raises:
        ConfigError: the file cannot be read, an option is unknown or has a value that is not allowed, or its recipe is
            another one; or it names code that is not trusted. Names the file.
    """
    values = _read(path)
    try:
        if isinstance(values.get("config"), dict) and "algorithm" in values:
            return _of_run(values, named, trusted, path)
        return _of_options(values, named, trusted, path)
    except ConfigError as error:
        # what is written in brackets is no tuple to its writer
        said = str(error).replace("expected a tuple", "expected a list")
        raise ConfigError(said if said.startswith(f"config {path} ") else f"config {path}: {said}") from error


def as_text(recipe: Recipe, config: Any) -> str:
    """A file of options that `from_file` reads, in JSON.

    Raises:
        ConfigError: a user's Config has a field of the name that the recipe has in a file.
    """
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    if _RECIPE in values:
        raise ConfigError(f"Config has a field {_RECIPE!r}, which names the recipe in a file of options; rename it")
    # as an option has it; their field holds only the value at its start
    values.update(each.partition("=")[::2] for each in values.pop("schedule", ()))
    name = recipe.name if recipe.source is None else recipe.source.text
    return json.dumps({_RECIPE: name, **values}, indent=2)


def with_options(
    recipe: Recipe, options: Mapping[str, Any], name: str, beside: Sequence[str] = (), config: Any = None
) -> Any:
    """The Config of a recipe with these options, of which numbers may be schedules.

    Args:
        recipe: whose Config it is.
        options: its fields, by name.
        name: of the recipe, as the user wrote it.
        beside: other names that the user may have meant.
        config: to change; by default the recipe's.

    Raises:
        ConfigError: an option is unknown, or has a value that is not allowed.
    """
    from rlpipe.pipelines.config.foreign_names import explain  # noqa: PLC0415
    from rlpipe.pipelines.config.json_form import checked, made  # noqa: PLC0415
    from rlpipe.pipelines.config.schedules import with_schedules  # noqa: PLC0415

    config = recipe.config() if config is None else config
    names = [field.name for field in dataclasses.fields(config)]
    if unknown := [option for option in options if option not in names]:
        hint = explain(unknown[0], [*names, *beside], recipe.owners, python=True)
        raise ConfigError(f"{name} has no option {unknown[0]!r}; {hint or 'there are ' + ', '.join(names)}")
    options = {each: _fitting(type(config), each, value) for each, value in options.items()}
    changed = with_schedules(options, type(config), getattr(config, "schedule", ()))
    return checked(made(type(config), {**{each: getattr(config, each) for each in names}, **changed}))


def _of_run(
    described: dict[str, Any], named: Recipe | None, trusted: Collection[str], path: Path
) -> tuple[Recipe, Any]:
    from rlpipe.pipelines.config.json_form import checked, config_from_json  # noqa: PLC0415

    found = trusted_description(described, trusted, f"config {path}")
    recipe = recipe_of_run(found)
    if named is not None and (named.name, named.algorithm) != (recipe.name, recipe.algorithm):
        raise _contradiction(recipe.name, named)
    if listeners := described.get("listeners"):
        _LOG.warning("rlpipe: config %s is of a run with listeners (%s), which this one does not have", path, listeners)
    return recipe, checked(config_from_json(recipe.config_class, found["config"]))


def _of_options(
    values: dict[str, Any], named: Recipe | None, trusted: Collection[str], path: Path
) -> tuple[Recipe, Any]:
    from rlpipe.pipelines.config.json_form import with_tuples  # noqa: PLC0415

    recipe, name = named, values.pop(_RECIPE, None)
    if name is not None:
        if not isinstance(name, str):
            raise ConfigError(f"{_RECIPE} is {shown(name)}; expected the name of a recipe")
        if (source := named_source(name)) is not None:
            file = None if source.file is None else str(source.file.absolute())
            described = {"file": file, "module": source.module, "name": source.name, "digest": ""}
            trusted_description({"config": {}, "source": described}, trusted, f"config {path}")
        recipe = find_recipe(name)
        if named is not None and (named.name, named.algorithm) != (recipe.name, recipe.algorithm):
            raise _contradiction(name, named)
    if recipe is None:
        raise ConfigError(f'it names no recipe; add "{_RECIPE}", or name one: rlpipe train ppo --config {path}')
    trusted_description({"config": values, "source": None}, trusted, f"config {path}")
    cls = recipe.config_class
    given = {each: _none(cls, each, with_tuples(value)) for each, value in values.items()}
    return recipe, with_options(recipe, given, recipe.name)


def _fitting(cls: Any, name: str, value: Any) -> Any:
    """A list as a tuple, and 1e6 as a whole number, where a field is one: `hidden=[64, 64], total_frames=1e6`."""
    from rlpipe.pipelines.config.fields import hints_of  # noqa: PLC0415
    from rlpipe.pipelines.config.schedules import number_kind  # noqa: PLC0415

    hint = hints_of(cls).get(name)
    if isinstance(value, list) and tuple in (get_origin(hint), *map(get_origin, get_args(hint))):
        return tuple(value)
    is_whole = isinstance(value, float) and value.is_integer() and number_kind(cls, name) is int
    return int(value) if is_whole else value


def _none(cls: Any, name: str, value: Any) -> Any:
    """`none`, as it is written on the command line, where a field may be that."""
    from rlpipe.pipelines.config.fields import hints_of  # noqa: PLC0415

    is_none = isinstance(value, str) and value.lower() == "none"
    return None if is_none and type(None) in get_args(hints_of(cls).get(name)) else value


def _contradiction(name: str, named: Recipe) -> ConfigError:
    return ConfigError(f"it is of the recipe {name}, and {named.name} was named; leave one out")


def _read(path: Path) -> dict[str, Any]:
    is_yaml = path.suffix.lower() in _YAML
    try:
        # a link is followed here: the user has named it
        text = read_plain(path.resolve(), layout.LARGEST_JSON)
        read = _from_yaml(text) if is_yaml else json.loads(text, object_pairs_hook=_once)
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path} is no text: {first_line(error)}") from error
    except RecursionError:
        raise ConfigError(f"config {path} is nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(f"config {path} {error}") from None
    except ValueError as error:
        raise ConfigError(f"config {path} is not {'YAML' if is_yaml else 'JSON'}: {first_line(error)}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"config {path} holds {shown(read)}; expected an object of options, such as lr and its value")
    return read


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    values: dict[Any, Any] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise ConfigError(f"has {shown(name)} in place of a name; expected text")
        if name in values:
            raise ConfigError(f"has {name!r} twice")
        values[name] = value
    return values


def _from_yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415

    class Loader(yaml.SafeLoader):
        """Refuses names that are there twice and aliases, and reads 1e-3 as a number."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                # a few lines of aliases of aliases can stand for more than the memory holds
                event = self.peek_event()
                raise ConfigError(f"has the alias *{event.anchor} in line {event.start_mark.line + 1}; write the value")
            return super().compose_node(parent, index)

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        return _once(
            [(loader.construct_object(key, True), loader.construct_object(each, True)) for key, each in node.value]
        )

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{_EXPONENT.pattern}$"), list("-+.0123456789"))
    try:
        return Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1} column {mark.column + 1}"
        raise ValueError(f"{getattr(error, 'problem', None) or first_line(error)}{place}") from error
