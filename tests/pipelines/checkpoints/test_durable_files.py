"""What reaches the disk, and in which order: the tests' own stand-in for flushing counts here."""

import os
from pathlib import Path

import pytest
import torch

from rlpipe.pipelines.checkpoints.checkpoint import save_checkpoint
from rlpipe.pipelines.checkpoints.durable_files import replace_synced

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the files of a process are not listed here")


@pytest.fixture
def order(monkeypatch, tmp_path):
    """Flushes and renames, in their order, as paths below the folder."""
    seen, replace = [], os.replace

    def note(handle):
        seen.append(("flush", str(Path(f"/proc/self/fd/{handle}").readlink().relative_to(tmp_path))))

    def move(source, target):
        seen.append(("rename", f"{Path(source).relative_to(tmp_path)} -> {Path(target).relative_to(tmp_path)}"))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", move)
    return seen


def test_a_checkpoint_gets_its_name_when_all_of_it_is_on_the_disk(order, tmp_path):
    save_checkpoint(tmp_path / "frames-1", {"policy": torch.nn.Linear(2, 1)}, {"frames": 1})
    *files, folder, renamed, parent = order
    assert {path for _, path in files} == {
        ".frames-1.partial/policy.safetensors",
        ".frames-1.partial/checkpoint.json",
    }
    assert folder == ("flush", ".frames-1.partial")
    assert renamed == ("rename", ".frames-1.partial -> frames-1")
    assert parent == ("flush", ".")


def test_a_file_is_replaced_when_the_new_one_is_on_the_disk(order, tmp_path):
    (tmp_path / "config.json").write_text("old")
    replace_synced(tmp_path / "config.json", "new")
    (flushed, stage), renamed, parent = order
    assert (flushed, renamed) == ("flush", ("rename", f"{stage} -> config.json"))
    assert parent == ("flush", ".")
    assert (tmp_path / "config.json").read_text() == "new"
