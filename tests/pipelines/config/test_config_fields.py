"""No Config has a field that nothing reads, or that says nothing of itself."""

import ast
import dataclasses
from pathlib import Path

import pytest

from rlpipe.pipelines.algorithms import a2c, dqn, policy_gradient, ppo, q_learning, reinforce, sarsa


@pytest.mark.parametrize("algorithm", [ppo, a2c, dqn, reinforce, q_learning, sarsa, policy_gradient])
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
