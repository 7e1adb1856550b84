"""The front door in a notebook: the bar and the curve are outputs of their cells, and nothing else is."""

import re

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

SMALL = "total_frames=2048, num_envs=4, rollout_steps=32, minibatch_size=64, hidden=(8,), final_eval_episodes=3"
CELLS = (
    f'import rlpipe\nrun = rlpipe.train("ppo", seed=3, loggers=None, folder="run", {SMALL})\nrun',
    'agent = rlpipe.load(run, "best")\naction, state = agent.predict([0.0, 0.0, 0.05, 0.0])\nint(action), state',
    "run.agent.evaluate(3) == run.evaluation",
    # the kernel has an event loop, in which cells run
    "import asyncio\n"
    f'other = await asyncio.to_thread(rlpipe.train, "ppo", seed=3, loggers=None, folder="other", {SMALL})\n'
    "other.evaluation == run.evaluation",
)


@pytest.mark.slow
def test_a_notebook_shows_the_bar_and_the_curve(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in CELLS])
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    (bar, shown), (acted,), (same,), (beside, same_beside) = (cell.outputs for cell in notebook.cells)
    for each in (bar, beside):
        assert re.match(r"ppo 100%\|█+\| .*, return: training \d.*, evaluation \d", each.data["text/plain"])
        assert each.data["text/html"].startswith("<pre")
        assert not re.search(r"[\r\x1b]", str(each.data))
    assert shown.data["text/plain"].startswith("<ppo on CartPole-v1, seed 3: return ")
    assert shown.data["image/png"]
    assert re.fullmatch(r"\([01], None\)", acted.data["text/plain"])
    assert same.data["text/plain"] == same_beside.data["text/plain"] == "True"
