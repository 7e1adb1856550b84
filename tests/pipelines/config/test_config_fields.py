"""No Config has a field that nothing reads, or that says nothing of itself."""

import ast
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from rlpipe import number
from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import a2c, dqn, policy_gradient, ppo, q_learning, qr_dqn, reinforce, sarsa
from rlpipe.pipelines.config.fields import CheckedConfig


@pytest.mark.parametrize("algorithm", [ppo, a2c, dqn, qr_dqn, reinforce, q_learning, sarsa, policy_gradient])
def test_every_field_is_documented_and_read(algorithm):
    root = Path(algorithm.__file__).parents[2]
    sources = [path.read_text() for folder in ("pipelines", "scripts") for path in (root / folder).rglob("*.py")]
    read = {
        node.attr
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("config", "self")
    }
    documented = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                pairs = zip(node.body, node.body[1:], strict=False)
                documented |= {
                    field.target.id
                    for field, text in pairs
                    if isinstance(field, ast.AnnAssign)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                }
    for field in dataclasses.fields(algorithm.Config):
        assert field.name in read, f"{field.name} is read nowhere"
        assert field.name in documented, f"{field.name} has no docstring"


@dataclass(frozen=True)
class Own(CheckedConfig):
    above: float = number(0.1, above=0)
    pair: tuple[int, float] = (1, 2)
    levels: Literal[1, 2] = 1
    names: dict[str, int] | None = None
    function: Callable[[int], int] | None = None
    anything: Any = None


def test_a_config_may_have_any_types():
    own = Own(pair=(3, 4), levels=2, names={"a": 1}, function=abs, anything=...)
    assert [type(each) for each in own.pair] == [int, float]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"above": 0}, "above is 0.0; allowed is more than 0"),
        ({"pair": (1, 2, 3)}, "pair is (1, 2, 3); expected a tuple of 2: a whole number, a finite number"),
        ({"pair": (1, "a")}, "expected a tuple of 2: a whole number, a finite number"),
        ({"levels": 3}, "levels is 3; allowed are 1, 2"),
        ({"levels": True}, "levels is True; allowed are 1, 2"),
        ({"names": [1]}, "expected dict[str, int] or none"),
        ({"function": 3}, "function is 3"),
    ],
)
def test_values_of_other_types_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        Own(**values)
    assert message in str(caught.value)
