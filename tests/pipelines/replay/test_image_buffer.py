"""A buffer that keeps each frame once gives what one of whole stacks gives, and never a stack across an edge."""

import contextlib
import copy
import dataclasses

import gymnasium as gym
import pytest
import torch
from comparing import fingerprint
from hypothesis import given, settings
from hypothesis import strategies as st
from images import HEIGHT, STACK, WIDTH, counting, read
from resuming import go, killed
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe.errors import ConfigError
from rlpipe.losses import NStep
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.algorithms import dqn
from rlpipe.pipelines.algorithms.recipes import find_recipe
from rlpipe.pipelines.checkpoints.checkpoint import read_manifest
from rlpipe.pipelines.checkpoints.names import checkpoints
from rlpipe.pipelines.checkpoints.state_checks import Kind
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.replay.image_buffer import ImageReplay, images_for
from rlpipe.pipelines.replay.state import ImageReplayState
from rlpipe.pipelines.session import Session

SHAPE = (STACK, HEIGHT, WIDTH)
KEYS = ["action", "observation", ("next", "observation"), ("next", "reward"), ("next", "discount")]
STARTS = {"repeated": 1, "zeros": 2, "before": STACK}
"""How the first observation of an episode begins, and how many frames it has that differ."""
LENGTHS = {
    "one step": (1,),
    "shorter than a stack": (2, 3),
    "up to a batch's edge": (7,),
    "longer than a batch": (23, 16),
    "all": (1, 2, 7, 40, 14, 3),
}
ENVS = 3


class Played:
    """Batches of counting environments, of any number of steps, and of one worker; episodes end as `lengths` has it."""

    def __init__(self, lengths, start="repeated", worker=None, first=0):
        kind = counting(tuple(lengths), start)
        kind.made = first
        self.envs, self.worker = [kind() for _ in range(ENVS)], worker
        self.roots = [env.reset()[0] for env in self.envs]

    def batch(self, steps=7):
        rows = [self._row(index, steps) for index in range(ENVS)]
        batch = torch.stack([torch.stack(row) for row in rows])
        if self.worker is not None:
            batch.set(("collector", "worker"), torch.full(batch.shape, self.worker))
        return batch

    def _row(self, index, steps):
        row = []
        for _ in range(steps):
            action = len(row) % 3
            last, reward, terminated, truncated, _ = self.envs[index].step(action)
            flags = {"terminated": terminated, "truncated": truncated, "done": terminated or truncated}
            after = {"observation": torch.from_numpy(last), "reward": torch.tensor([reward])}
            after |= {key: torch.tensor([value]) for key, value in flags.items()}
            entries = {"observation": torch.from_numpy(self.roots[index]), "action": torch.tensor(action)}
            row.append(TensorDict({**entries, "next": after}))
            self.roots[index] = self.envs[index].reset()[0] if flags["done"] else last
        return row

    def reset(self):
        """Leave the episodes where they are, as a run does that is resumed without its environments."""
        self.roots = [env.reset()[0] for env in self.envs]


def generator():
    return torch.Generator().manual_seed(3)


def whole(capacity, size=32):
    return ReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=size, generator=generator())


def framed(capacity, size=32, **options):
    """With as many frames as the shortest episodes may take, unless it is said otherwise."""
    options = {"num_images": capacity * (STACK + 1) + 100, **options}
    return ImageReplay(capacity, SHAPE, batch_size=size, generator=generator(), **options)


def store(buffer, batch, n=1):
    batch = buffer.number(batch) if isinstance(buffer, ImageReplay) else batch
    buffer.extend(NStep(gamma=0.9, n=n)(batch).select(*KEYS).reshape(-1))


def kept(buffer):
    return len(buffer.sampler.kept(len(buffer)))


def check_same(frames, stacks):
    """Both draw the same."""
    assert kept(frames) == len(frames) == len(stacks)
    ours, theirs = frames.sample(), stacks.sample()
    assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
    assert (ours == theirs).all()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_minibatches_are_those_of_whole_stacks(lengths, start, n):
    played, frames, stacks = Played(LENGTHS[lengths], start), framed(60), whole(60)
    for _ in range(12):
        batch = played.batch()
        for buffer in (frames, stacks):
            store(buffer, batch, n)
        check_same(frames, stacks)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_each_frame_is_kept_once(start, on_disk):
    played, frames = Played((5,), start), framed(200, on_disk=on_disk)
    for _ in range(5):
        store(frames, played.batch(6))
    # six episodes and their first observations
    assert frames.images.written == ENVS * (30 + 6 * STARTS[start])


def test_stacks_never_cross_an_edge():
    played, frames = Played(LENGTHS["all"], "before"), framed(60, size=64, num_images=None)
    for _ in range(15):
        store(frames, played.batch(), n=3)
        drawn = frames.sample()
        for one in drawn.unbind(0):
            stacks = one["observation"], one["next", "observation"]
            seen, then = ([read(picture.numpy()) for picture in stack] for stack in stacks)
            newest, ahead = seen[-1], then[-1][2] - seen[-1][2]
            assert seen == [(*newest[:2], newest[2] - age) for age in (3, 2, 1, 0)]
            assert then == [(*newest[:2], newest[2] + ahead - age) for age in (3, 2, 1, 0)]
            assert 1 <= ahead <= 3
            # every second episode is truncated, and bootstraps from its own last observation
            length = LENGTHS["all"][sum(newest[:2]) % len(LENGTHS["all"])]
            terminated = then[-1][2] == length and newest[1] % 2 == 0
            assert one["next", "discount"].item() == pytest.approx(0.0 if terminated else 0.9**ahead)


def test_where_frames_run_out_the_oldest_transitions_are_not_drawn():
    played, frames, batches = Played((1,), "before"), framed(60, size=500, num_images=None), []
    for _ in range(12):
        batches.append(played.batch())
        store(frames, batches[-1])
        newest = {one.numpy().tobytes() for one in torch.cat([each["observation"].flatten(0, 1) for each in batches])}
        drawn = {one.numpy().tobytes() for one in frames.sample()["observation"]}
        assert drawn <= newest
        assert len(drawn) == kept(frames)
    # five frames a transition
    assert len(frames) == 60
    assert 10 <= kept(frames) <= frames.images.capacity // STACK


def test_all_that_is_kept_is_drawn_alike():
    played, frames = Played((1,), "before"), framed(60, size=10_000, num_images=None)
    for _ in range(4):
        store(frames, played.batch())
    _, drawn = frames.sample(return_info=True)
    count = torch.bincount(drawn["index"], minlength=60)
    assert sorted(count.nonzero().flatten().tolist()) == frames.sampler.kept(60).tolist()
    expected = 10_000 / kept(frames)
    assert (count[count > 0] - expected).abs().max() < 5 * expected**0.5


def test_a_batch_of_more_frames_than_are_kept_leaves_its_newest():
    played, frames = Played((1,), "before"), framed(42, size=200, num_images=None)
    for _ in range(3):
        batch = played.batch(14)
        store(frames, batch)
        true = {one.numpy().tobytes() for one in batch["observation"].flatten(0, 1)}
        assert kept(frames)
        assert {one.numpy().tobytes() for one in frames.sample()["observation"]} <= true
    with pytest.raises(ValueError, match="num_images is 42; allowed is 46 or more"):
        framed(42, num_images=42)


def test_workers_go_on_where_each_was():
    workers = [Played(LENGTHS["longer than a batch"], worker=worker, first=100 * worker) for worker in range(3)]
    frames, stacks = framed(150), whole(150)
    order = [0, 2, 2, 1, 0, 0, 1, 2, 1, 1, 0, 2] * 2
    for worker in order:
        batch = workers[worker].batch()
        for buffer in (frames, stacks):
            store(buffer, batch)
        check_same(frames, stacks)
    episodes = sum(env.episode + 1 for played in workers for env in played.envs)
    # the last of them may begin with the next batch
    assert 0 <= ENVS * 7 * len(order) + episodes - frames.images.written <= 3 * ENVS


def test_frames_that_were_overwritten_are_kept_anew_even_if_they_look_alike():
    frames, blank = framed(30, num_images=40), Played((50,)).batch()
    for place in (blank, blank["next"]):
        place.set("observation", torch.zeros_like(place["observation"]))
    for worker in (0, 1, 1, 0):
        store(frames, blank.clone().set(("collector", "worker"), torch.full(blank.shape, worker)))
    assert kept(frames) >= blank.numel()


@pytest.mark.parametrize("break_off", ["reset", "leave out"])
def test_a_broken_off_episode_is_none_that_goes_on(break_off):
    played, frames, stacks = Played((50,), "before"), framed(90), whole(90)
    for step in range(12):
        if step % 3 == 2:
            played.reset() if break_off == "reset" else played.batch()
        batch = played.batch()
        for buffer in (frames, stacks):
            store(buffer, batch, n=2)
        check_same(frames, stacks)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_anything_that_happens_gives_the_newest_transitions(data):
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    start, n = data.draw(st.sampled_from(sorted(STARTS))), data.draw(st.integers(1, 3))
    capacity, spare = data.draw(st.integers(30, 60)), data.draw(st.sampled_from([None, 400]))
    workers = [Played(lengths, start, worker, 50 * worker) for worker in range(2)]
    frames, true = framed(capacity, size=20, num_images=spare), []
    for _ in range(data.draw(st.integers(1, 8))):
        played = data.draw(st.sampled_from(workers))
        happens = data.draw(st.sampled_from(["nothing", "nothing", "reset", "left out"]))
        if happens == "reset":
            played.reset()
        batch = played.batch(data.draw(st.integers(n, 10)))
        if happens == "left out":
            continue
        store(frames, batch, n)
        true = [*true, *NStep(gamma=0.9, n=n)(batch).select(*KEYS).reshape(-1).unbind(0)][-capacity:]
        drawn, info = frames.sample(return_info=True)
        assert len(frames) == len(true)
        assert spare is None or kept(frames) == len(true)
        for place, transition in zip(info["index"].tolist(), drawn.unbind(0), strict=True):
            # places go round
            age = (frames.writer.state_dict()["_cursor"] - 1 - place) % len(true)
            assert (transition == true[-1 - age]).all()


def test_an_emptied_buffer_begins_anew():
    frames, played = framed(60), Played((50,))
    for _ in range(2):
        store(frames, played.batch())
        frames.empty()
        assert (len(frames), frames.images.written) == (0, 0)
    with pytest.raises(ValueError, match="the buffer is empty"):
        frames.sample()
    store(frames, played.batch())
    assert kept(frames) == len(frames) == 7 * ENVS


def test_the_batch_is_left_as_it_is():
    frames, batch = framed(60), Played((5,)).batch()
    before = batch.clone()
    store(frames, batch)
    assert (batch == before).all()


def test_what_is_no_stack_of_frames_is_refused():
    batch = Played((5,)).batch()
    for place in (batch, batch["next"]):
        place.set("observation", torch.randint(0, 256, place["observation"].shape, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="in none of the first 21 steps .* --replay-storage transitions"):
        framed(60).number(batch)
    with pytest.raises(ConfigError, match="is for observations of .4, 5, 8., uint8; got .4, 5., torch.uint8"):
        framed(60).number(batch.apply(lambda each: each[..., 0] if each.ndim == 5 else each))


# ---- in runs

OPTIONS = {
    "env_id": "Counting-v0",
    "num_envs": 4,
    "rollout_steps": 8,
    "total_frames": 1200,
    "checkpoint_every": 300,
    "eval_every": 600,
    "eval_episodes": 1,
    "buffer_size": 800,
    "warmup_frames": 100,
    "minibatch_size": 32,
    "updates": 1,
    "hidden": (8,),
}


@pytest.fixture(autouse=True, scope="module")
def counting_env():
    """An id of counting environments, which a checkpoint captures, and of others, which it synchronises."""
    captured = counting((70, 1, 130, 95))
    opaque = type("Opaque", (captured,), {"get_state": None})
    gym.register("Counting-v0", entry_point=captured)
    gym.register("Opaque-v0", entry_point=opaque)
    yield
    del gym.registry["Counting-v0"], gym.registry["Opaque-v0"]


def learned(**changes):
    """The scalars of every batch of a run, and its buffer."""
    with contextlib.closing(dqn.build(dqn.Config(**{**OPTIONS, **changes}))) as pipeline:
        rows = [pipeline.learn(batch).to_dict() for batch in pipeline.collector]
        return [{key: value.item() for key, value in row.items()} for row in rows], pipeline.state["replay"].buffer


def test_a_run_is_the_same_with_frames_and_with_transitions():
    expected, _ = learned()
    for kept_as in ("frames", "frames-on-disk"):
        found, buffer = learned(replay_storage=kept_as)
        assert isinstance(buffer, ImageReplay)
        assert found == expected


@pytest.mark.parametrize(("env_id", "storage"), [("Counting-v0", "frames"), ("Opaque-v0", "frames-on-disk")])
def test_a_killed_run_goes_on_to_the_bit(env_id, storage, tmp_path, monkeypatch):
    # some pieces a checkpoint
    monkeypatch.setattr("rlpipe.pipelines.replay.image_ring._PIECE", 100 * HEIGHT * WIDTH)
    config = dqn.Config(**{**OPTIONS, "env_id": env_id, "replay_storage": storage})
    go(tmp_path / "whole", "dqn", config)
    killed(tmp_path / "killed", "dqn", config, "learn", 25)
    go(tmp_path / "killed", "dqn", config)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


def test_a_checkpoint_links_the_frames_that_the_last_one_has(tmp_path, monkeypatch):
    monkeypatch.setattr("rlpipe.pipelines.replay.image_ring._PIECE", 50 * HEIGHT * WIDTH)
    config = dqn.Config(**{**OPTIONS, "replay_storage": "frames", "buffer_size": 2000})
    go(tmp_path / "run", "dqn", config)
    newest, before = checkpoints(tmp_path / "run")[:2]
    names = sorted(file.name for file in newest.glob("replay_frames_*"))
    same = [name for name in names if (before / name).exists() and (newest / name).samefile(before / name)]
    # 300 frames are six pieces or seven, and a few more for first observations
    assert 6 <= len(names) - len(same) <= 8
    assert len(same) > 10
    assert set(names) < set(read_manifest(newest)["files"])
    with trained(tmp_path / "run") as agent:
        assert "replay" not in agent.pipeline.state


def test_what_needs_frames_is_refused_elsewhere():
    with pytest.raises(ConfigError, match=r"replay_storage keeps frames, which needs observations \[C, H, W\]"):
        dqn.build(dqn.Config(replay_storage="frames"))
    with pytest.raises(ConfigError, match="replay_storage is 'frames', which needs replay to be True"):
        dqn.Config(replay_storage="frames", replay=False)


def test_a_disk_or_memory_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = {**OPTIONS, "buffer_size": 10**9}
    for storage, way_out in (("frames", "frames-on-disk"), ("transitions", "frames"), ("frames-on-disk", "")):
        words = r"buffer_size is 1000000000, which takes \d+\.\d\d GB of memory; .* GB; take a smaller --buffer-size"
        with pytest.raises(ConfigError, match=f"{words}{way_out and f' or --replay-storage {way_out}'}$"):
            dqn.build(dqn.Config(**options, replay_storage=storage))
    usage = type("Usage", (), {"free": 15_000})
    monkeypatch.setattr("rlpipe.pipelines.devices.shutil.disk_usage", lambda _: usage)
    options["buffer_size"] = 400
    with pytest.raises(ConfigError, match=r"buffer_size is 400: .* take 18,000 bytes .* has 15,000 free; .* TMPDIR"):
        dqn.build(dqn.Config(**options, replay_storage="frames-on-disk"))
    assert not list(tmp_path.iterdir())


def test_frames_are_kept_for_the_environments_of_all_collectors(monkeypatch):
    # without the collectors themselves
    monkeypatch.setattr(
        "rlpipe.pipelines.build.pipeline.make_collector",
        lambda config, env, *_: SyncDataCollector(env, frames_per_batch=32),
    )
    options = {**OPTIONS, "replay_storage": "frames", "collector": "processes", "num_collectors": 2}
    pipeline = dqn.build(dqn.Config(**options))
    assert pipeline.collector.env.batch_size.numel() == 2
    assert pipeline.state["replay"].buffer.images.capacity == images_for(800, STACK, num_envs=4)
    pipeline.close()


def test_a_run_whose_checkpoints_have_no_room_does_not_begin(tmp_path, monkeypatch, caplog):
    # of 40 bytes a frame
    changed = {"buffer_size": 400, "replay_storage": "frames", "total_frames": 300, "checkpoint_every": 100}
    config = dqn.Config(**{**OPTIONS, **changed, "final_eval_episodes": 1})

    def begin(free, **changes):
        monkeypatch.setattr("rlpipe.pipelines.devices.shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
        Session(find_recipe("dqn"), dataclasses.replace(config, **changes), tmp_path / f"run-{free}").run()
        return [record.message for record in caplog.records if "disk" in record.message]

    with pytest.raises(ConfigError, match="a checkpoint take 12,000 bytes of disk; .* has 11,999 free; .*--run-dir"):
        begin(11_999)
    assert not list(tmp_path.iterdir())
    assert not begin(20_000)
    assert not begin(12_000, checkpoint_every=None)
    told = begin(19_999)
    assert len(told) == 1
    assert "take up to 20,000 bytes of disk" in told[0]
    assert told[0].endswith("--checkpoint-every none")


def test_the_file_has_no_name_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, buffer = learned(replay_storage="frames-on-disk", total_frames=200)
    assert not list(tmp_path.iterdir())
    assert len(buffer.sample()) == 32


# ---- states of others

KINDS = {
    "observation": Kind(torch.Size(SHAPE), torch.uint8),
    ("next", "observation"): Kind(torch.Size(SHAPE), torch.uint8),
    "action": Kind(torch.Size([]), torch.int64, 3),
    ("next", "reward"): Kind(torch.Size([1]), torch.float32),
    ("next", "discount"): Kind(torch.Size([1]), torch.float32),
}


@pytest.fixture
def saved(monkeypatch):
    """A buffer in the second round of its ring, and its state in three pieces and a part."""
    monkeypatch.setattr("rlpipe.pipelines.replay.image_ring._PIECE", 100 * HEIGHT * WIDTH)
    frames, played = framed(300, num_images=350), Played((5,))
    for _ in range(21):
        store(frames, played.batch())
    pieces = {name: piece.state_dict() for name, piece in frames.images.pieces().items()}
    assert [len(piece["frames"]) for piece in pieces.values()] == [100, 100, 100, 50]
    return frames, played, copy.deepcopy(ImageReplayState(frames, KINDS).state_dict()), copy.deepcopy(pieces)


def load(state, pieces, into=None):
    frames = framed(300, num_images=350) if into is None else into
    ImageReplayState(frames, KINDS).load_state_dict(state)
    for name, piece in frames.images.pieces().items():
        piece.load_state_dict(pieces[name])
    return frames


def test_a_state_brings_all_back(saved):
    frames, played, state, pieces = saved
    again = load(state, pieces)
    # into one that is in use as well, as where the newest checkpoint was damaged
    used = framed(300, num_images=350)
    store(used, Played((3,), first=50).batch())
    load(state, pieces, used)
    for _ in range(3):
        batch = played.batch()
        for buffer in (frames, again, used):
            store(buffer, batch)
            buffer.set_rng(generator())
        drawn = frames.sample()
        assert (drawn == again.sample()).all()
        assert (drawn == used.sample()).all()
        assert frames.images.written == again.images.written == used.images.written


def test_a_piece_knows_its_file_until_a_frame_is_written(saved):
    frames, played, _, _ = saved
    pieces = frames.images.pieces().values()
    for piece in pieces:
        assert piece.saved_as() is None
        piece.note_saved("file", "digest")
    before = [piece.state_dict()["frames"].clone() for piece in pieces]
    for _ in range(3):
        store(frames, played.batch())
        same = [torch.equal(piece.state_dict()["frames"], old) for piece, old in zip(pieces, before, strict=True)]
        assert [piece.saved_as() == ("file", "digest") for piece in pieces] == same
        assert sorted(set(same)) == [False, True]


WRONG = {
    "nothing of frames": lambda state: state.pop("frames"),
    "frames that are none": lambda state: state.update(frames=3),
    "fewer written": lambda state: state["frames"].update(written=100),
    "more written": lambda state: state["frames"].update(written=10**9),
    "written, less than nothing": lambda state: state["frames"].update(written=-1),
    "written, no number": lambda state: state["frames"].update(written="9"),
    "written, beyond all": lambda state: state["frames"].update(written=2**80),
    "tails of another kind": lambda state: state["frames"].update(tails=state["frames"]["tails"].float()),
    "tails of another shape": lambda state: state["frames"].update(tails=state["frames"]["tails"][:, :2]),
    "tails of frames to come": lambda state: state["frames"]["tails"].add_(1000),
    "tails that are none": lambda state: state["frames"].update(tails=None),
    "something more": lambda state: state["frames"].update(more=1),
    "numbers below 0": lambda state: state["held"]["observation"][3].fill_(-1),
    "numbers of frames to come": lambda state: state["held"]["next"]["observation"][3].fill_(10**6),
    "pixels": lambda state: state["held"].update(observation=torch.zeros(300, *SHAPE, dtype=torch.uint8)),
    "numbers of another kind": lambda state: state["held"].update(observation=state["held"]["observation"].int()),
}
WRONG_PIECES = {
    "fewer frames": lambda piece: piece.update(frames=piece["frames"][:-1]),
    "more frames": lambda piece: piece.update(frames=piece["frames"].repeat(2, 1, 1)),
    "no frames": lambda piece: piece.update(frames=None),
    "frames of another kind": lambda piece: piece.update(frames=piece["frames"].float()),
    "frames of another shape": lambda piece: piece.update(frames=piece["frames"][:, :2]),
    "something else": lambda piece: piece.update(other=1),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_states_that_do_not_fit(saved, wrong):
    _, _, state, pieces = saved
    WRONG[wrong](state)
    with pytest.raises((ValueError, TypeError)):
        load(state, pieces)


@pytest.mark.parametrize("wrong", WRONG_PIECES)
def test_pieces_that_do_not_fit(saved, wrong):
    _, _, state, pieces = saved
    WRONG_PIECES[wrong](pieces["replay_frames_3"])
    with pytest.raises(ValueError, match="state"):
        load(state, pieces)
