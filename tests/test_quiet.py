"""What other libraries print in a program that uses rlpipe: nothing, unless it is asked for."""

import logging
import os
import subprocess
import sys

import pytest

from rlpipe.quiet import quieten

CHEETAH = """
import logging, rlpipe
for num_envs in (1, 2):
    env = rlpipe.make_env(rlpipe.EnvConfig("HalfCheetah-v5", num_envs), seed=0)
    env.rollout(2)
    env.close()
print(logging.getLogger("torchrl").getEffectiveLevel())
"""
IN_WORKERS = """
import rlpipe
if __name__ == "__main__":
    env = rlpipe.make_env(rlpipe.EnvConfig("HalfCheetah-v5", 2, backend="async"), seed=0)
    env.close()
"""


def said(code, folder, **variables):
    file = folder / "program.py"
    file.write_text(code)
    kept = {name: value for name, value in os.environ.items() if name not in ("RL_LOGGING_LEVEL", "PYTHONWARNINGS")}
    kept.pop("PYGAME_HIDE_SUPPORT_PROMPT", None)
    options = {"cwd": folder, "env": {**kept, **variables}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, str(file)], check=True, **options)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("code", "expected"), [(CHEETAH, "30\n"), (IN_WORKERS, "")])
def test_mujoco_neither_prints_nor_writes_what_it_thinks_of_a_model(tmp_path, code, expected):
    pytest.importorskip("mujoco")
    # and TorchRL logs nothing below a warning
    assert said(code, tmp_path) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.slow
def test_torchrl_logs_what_is_asked_for(tmp_path):
    code = "import logging, os, rlpipe, torchrl\n"
    code += "print(logging.getLogger('torchrl').getEffectiveLevel(), os.environ['PYGAME_HIDE_SUPPORT_PROMPT'])"
    assert said(code, tmp_path, RL_LOGGING_LEVEL="DEBUG").split()[-2:] == ["10", "1"]


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
