"""`rlpipe render` as its user meets it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from PIL import Image

from rlpipe.errors import CheckpointError
from rlpipe.pipelines.agents.load import trained as load
from rlpipe.scripts.main import run

SHORT = ["--total-frames", "512", "--eval-every", "512", "--eval-episodes", "1", "--final-eval-episodes", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run that has drawn its own agent.gif."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--gif", "--max-episode-steps", "30", "--seed", "3", "--quiet"]
    assert run(["train", "ppo", *SHORT, *options, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments, code=2):
    before = sorted(Path().rglob("*"))
    assert run(["render", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert sorted(Path().rglob("*")) == before, "something was written"
    return captured.err


def test_a_run_is_drawn_as_its_own_gif(trained, capsys):
    capsys.readouterr()
    assert run(["render", str(trained), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("agent.gif, ")
    assert captured.out.count("\n") == 1
    assert "ppo on CartPole-v1, " in captured.out
    assert "frames of 480 x 346, return " in captured.out
    assert Path("agent.gif").read_bytes() == (trained / "agent.gif").read_bytes()
    assert "agent.gif exists already; nothing was overwritten" in refused(capsys, trained)


def test_json_of_a_checkpoint_with_other_options(trained, capsys):
    checkpoint = next((trained / "checkpoints").iterdir())
    capsys.readouterr()
    options = ["--episodes", "2", "--seed", "5", "--fps", "25", "--size", "120", "--hold", "0", "--stochastic"]
    assert run(["render", str(checkpoint), "--out", "a.gif", *options, "--max-steps", "6", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    with Image.open("a.gif") as image:
        assert (image.n_frames, image.size) == (summary["frames"], (summary["width"], summary["height"]))
        assert image.info["duration"] == 40
    assert summary == {
        "recipe": "ppo",
        "env_id": "CartPole-v1",
        "checkpoint": str(checkpoint),
        "stochastic": True,
        "seed": 5,
        "out": "a.gif",
        "bytes": Path("a.gif").stat().st_size,
        "frames": 14,
        "width": 120,
        "height": summary["height"],
        "returns": [6.0, 6.0],
        "lengths": [6, 6],
        "cut": [True, True],
    }


def test_a_random_agent(capsys):
    assert run(["render", "--random", "rlpipe/Maze-v0", "--seed", "4", "--episodes", "2", "--quiet"]) == 0
    assert "a random agent on rlpipe/Maze-v0, " in capsys.readouterr().out
    assert Path("agent.gif").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_window_shows_it_and_a_display_that_is_missing_is_said_so(capsys, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert run(["render", "--random", "rlpipe/Maze-v0", "--screen", "--fps", "500", "--hold", "0", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("shown on the screen: a random agent")
    assert not list(Path().iterdir())
    monkeypatch.setenv("SDL_VIDEODRIVER", "nothing")
    assert "screen needs a display, and none is available" in refused(capsys, "--random", "CartPole-v1", "--screen")
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "(neither DISPLAY nor WAYLAND_DISPLAY is set)" in refused(capsys, "--random", "CartPole-v1", "--screen")


def test_random_may_stand_anywhere_and_a_name_is_printed_in_one_line(capsys):
    options = ["--out", "a\nb.gif", "--quiet", "--random", "rlpipe/Maze-v0"]
    assert run(["render", *options]) == 0
    assert capsys.readouterr().out.startswith("a b.gif, ")
    assert Path("a\nb.gif").exists()


def test_a_damaged_config_is_named(trained, capsys):
    shutil.copytree(trained, "run")
    file, known = Path("run/config.json"), json.loads((trained / "config.json").read_text())
    config = {**known["config"], "seed": "x"}
    for damaged, said in ((config, "seed is 'x'; "), ({"env_id": "CartPole-v1"}, "the config has no field ")):
        file.write_text(json.dumps({**known, "config": damaged}))
        capsys.readouterr()
        expected = f"rlpipe: error: run {Path('run').resolve()}: {said}"
        assert refused(capsys, "run").startswith(expected)
        with pytest.raises(CheckpointError, match=f"^run {Path('run').resolve()}: {said}"), load("run"):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are a matter of Unix")
@pytest.mark.parametrize(("suffix", "said"), [(".gif", "File too large"), (".mp4", "ffmpeg ")])
def test_a_disk_that_is_full_leaves_no_film(suffix, said):
    pytest.importorskip("imageio_ffmpeg")
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048));"
    limited += "from rlpipe.scripts.main import run; sys.exit(run(sys.argv[1:]))"
    done = forked.run("-c", limited, "render", "--random", "CartPole-v1", "--quiet", "--out", f"a{suffix}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rlpipe: error: a{suffix} cannot be written: {said}")
    assert done.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_what_is_mistyped(trained, capsys):
    capsys.readouterr()
    assert run(["render"]) == 0
    assert capsys.readouterr().out.startswith("usage: rlpipe render RUN")
    assert "no option is called --ot; did you mean --out?" in refused(capsys, trained, "--ot", "a.gif")
    assert "a name that ends in .gif or .mp4" in refused(capsys, trained, "--out", "a.png")
    assert "there is no folder nowhere" in refused(capsys, trained, "--out", "nowhere/a.gif")
    assert "episodes is 0; allowed is 1 or more" in refused(capsys, trained, "--episodes", "0")
    assert "fps is nan; allowed is 0.1 or more" in refused(capsys, trained, "--fps", "nan")
    assert "seed is -1; allowed is 0 or more" in refused(capsys, trained, "--seed", "-1")
    assert "random is 'A-v0', which replaces the run" in refused(capsys, trained, "--random", "A-v0")
    assert "is no run" in refused(capsys, "nowhere")
    assert "the run comes before the options" in refused(capsys, "--out", "a.gif")
    assert "'CartPole-v9', which Gymnasium does not know" in refused(capsys, "--random", "CartPole-v9")
    assert "'tests/Counter-v0' draws no images" in refused(capsys, "--random", "tests/Counter-v0")


def test_an_environment_that_cannot_be_drawn_is_refused(capsys):
    assert run(["train", "a2c", *SHORT, "--env-id", "tests/Identity-v0", "--run-dir", "run", "--quiet"]) == 0
    capsys.readouterr()
    assert "'tests/Identity-v0' draws no images: it has no render mode at all" in refused(capsys, "run")


def test_an_opengl_that_is_not_there_is_named():
    pytest.importorskip("mujoco")
    # read when MuJoCo is imported
    words = [sys.executable, "-m", "rlpipe", "render", "--random", "CartPole-v1"]
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("rlpipe: error: MUJOCO_GL is 'nonsense', with which MuJoCo cannot draw here (")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_leaves_no_file():
    words = ["-m", "rlpipe", "render", "--random", "CartPole-v1", "--episodes", "1000", "--quiet"]
    process = forked.Python(*words, stderr=subprocess.PIPE)
    while process.poll() is None and not list(Path().iterdir()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate()
    assert (process.returncode, complaint) == (130, "rlpipe: interrupted; nothing was written\n")
    assert list(Path().iterdir()) == []
