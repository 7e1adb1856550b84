"""What other libraries print in a program that uses rlpipe: nothing, unless it is asked for."""

import logging
import os
import subprocess
import sys

import pytest

from rlpipe.quiet import quieten

CHEETAH = """
import rlpipe
for num_envs in (1, 2):
    env = rlpipe.make_env(rlpipe.EnvConfig("HalfCheetah-v5", num_envs), seed=0)
    env.rollout(2)
    env.close()
"""
IN_WORKERS = """
import rlpipe
if __name__ == "__main__":
    env = rlpipe.make_env(rlpipe.EnvConfig("HalfCheetah-v5", 2, backend="async"), seed=0)
    env.close()
"""
LEVEL = "print(logging.getLogger('torchrl').getEffectiveLevel(), os.environ['PYGAME_HIDE_SUPPORT_PROMPT'])"


def said(code, folder, **variables):
    file = folder / "program.py"
    file.write_text(code)
    kept = {name: value for name, value in os.environ.items() if name not in ("RL_LOGGING_LEVEL", "PYTHONWARNINGS")}
    kept.pop("PYGAME_HIDE_SUPPORT_PROMPT", None)
    options = {"cwd": folder, "env": {**kept, **variables}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, str(file)], check=True, **options)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", [CHEETAH, IN_WORKERS])
def test_mujoco_neither_prints_nor_writes_what_it_thinks_of_a_model(tmp_path, code):
    pytest.importorskip("mujoco")
    assert said(code, tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "level"), [({}, 30), ({"RL_LOGGING_LEVEL": "DEBUG"}, 10)])
def test_torchrl_logs_warnings_unless_more_is_asked_for(tmp_path, variables, level):
    code = "import logging, os, rlpipe, torchrl\n" + LEVEL
    assert said(code, tmp_path, **variables).split()[-2:] == [str(level), "1"]


@pytest.mark.parametrize(
    ("variable", "before", "after"),
    [(None, 20, 30), (None, 10, 10), (None, 40, 40), ("INFO", 20, 20)],
)
def test_a_chosen_level_stays(monkeypatch, variable, before, after):
    logger = logging.getLogger("torchrl")
    monkeypatch.setattr(logger, "level", before)
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "")
    monkeypatch.delenv("RL_LOGGING_LEVEL", raising=False)
    if variable is not None:
        monkeypatch.setenv("RL_LOGGING_LEVEL", variable)
    quieten()
    assert logger.level == after
    assert os.environ["RL_LOGGING_LEVEL"] == (variable or "WARNING")
    assert os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] == ""
