"""The examples of action values and of images learn as they say; one of them resumes to the bit."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.runs.run import Run

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


THRESHOLDS = {"c51": 150.0, "noisy_dqn": 100.0, "pixel_grid": 0.9}


@pytest.mark.learning
@pytest.mark.filterwarnings("ignore:total_frames")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "noisy_dqn" else name for name in THRESHOLDS]
)
def test_it_learns(name):
    assert load(name).main().mean >= THRESHOLDS[name]


@pytest.mark.slow
@pytest.mark.learning
def test_dueling_double_dqn_learns(tmp_path):
    assert load("dueling_double_dqn").main(folder=tmp_path).mean >= 200.0
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])["final"]


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_dueling_double_dqn_resumes_to_the_bit(tmp_path, monkeypatch):
    main, frames = load("dueling_double_dqn").main, 6_144
    whole = main(total_frames=frames, folder=tmp_path / "whole")
    log = Run.log_batch

    def kill(self, at, *rest):
        # after the first checkpoint, at 5 120
        if at == 5_632:
            raise Killed
        log(self, at, *rest)

    monkeypatch.setattr(Run, "log_batch", kill)
    with pytest.raises(Killed):
        main(total_frames=frames, folder=tmp_path / "cut")
    monkeypatch.undo()
    torch.manual_seed(1)
    assert main(total_frames=frames, folder=tmp_path / "cut") == whole
    ends = [newest_checkpoint(tmp_path / name / "0") for name in ("whole", "cut")]
    assert [end.name for end in ends] == ["frames-000000006144"] * 2
    for part in ("policy", "loss", "optimizer", "replay", "random", "environments"):
        one, other = (end / f"{part}.safetensors" for end in ends)
        assert one.read_bytes() == other.read_bytes(), part
    manifests = [json.loads((end / "checkpoint.json").read_text())["content"]["components"] for end in ends]
    # the seconds of training are in the progress and in the line
    for manifest in manifests:
        del manifest["progress"], manifest["line"]
    assert manifests[0] == manifests[1]


def test_dueling_double_dqn_goes_on_learning_beyond_its_first_end(tmp_path):
    main, frames = load("dueling_double_dqn").main, 2_048
    main(total_frames=frames, folder=tmp_path)
    main(total_frames=2 * frames, folder=tmp_path)
    manifest = json.loads((newest_checkpoint(tmp_path / "0") / "checkpoint.json").read_text())["content"]
    # the last batch's, of sixteen
    assert json.dumps(manifest["components"]["optimizer"]).count(str(2e-3 / 16)) == 1
