"""Scripts that start processes, and that each of these runs again when it imports them."""

import forked
import pytest

_OWN_LOOP = """
rlpipe.Run("before", "mine", settings={"env_id": "CartPole-v1", "seed": 0}).close()
env = rlpipe.make_env(rlpipe.EnvConfig("CartPole-v1", num_envs=2, backend="async"))
rlpipe.train(rlpipe.Pipeline(None, None, None, {}))
"""
SCRIPTS = {
    "workers": 'rlpipe.run_recipe("ppo", backend="async", num_envs=2, loggers=None)',
    "collectors": 'rlpipe.run_recipe("ppo", collector="processes", num_collectors=2, loggers=None)',
    "own loop": _OWN_LOOP,
}


@pytest.mark.parametrize(
    "name", [name if name == "own loop" else pytest.param(name, marks=pytest.mark.slow) for name in SCRIPTS]
)
def test_the_last_line_names_the_guard(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(f"import rlpipe\n{SCRIPTS[name]}\n")
    done = forked.run(script, cwd=tmp_path)
    assert done.returncode == 1
    assert 'put what it does under: if __name__ == "__main__":' in done.stderr.splitlines()[-1]
    # the processes say it in one line each, and the traceback is that of the script alone
    assert done.stderr.count("most recent call last") == 1
    # nothing is begun by them
    assert {path.name for path in tmp_path.iterdir()} - {"before"} == {"script.py"}
