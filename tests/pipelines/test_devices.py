"""Networks, losses and batches on a device of their own: the same numbers as on the CPU, and what passes between."""

import json

import numpy as np
import pytest
import torch
from resuming import Killed, killed_at, text
from small_recipes import BATCHES, DEEP, plain, small
from standin import DEVICE, Away, Generator, standing_in
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import LazyTensorStorage, ReplayBuffer

from rlpipe.losses import DQNLoss
from rlpipe.modules import MLP, GaussianActor, QActor, TanhNormal
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.algorithms.recipes import RECIPES, builder
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.devices import moved, sent
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.render.player import Player
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.seeding import GlobalRandom, Seeds
from rlpipe.pipelines.training.finished_episodes import finished_episodes
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.training.metrics import numbers_of
from rlpipe.pipelines.updates.learning import off_policy
from rlpipe.pipelines.updates.update import gradient_step
from rlpipe.scripts.main import run

HOST = torch.device("cpu")


def equal(one, other):
    one, other = plain(one), plain(other)
    assert one.keys() == other.keys()
    return all(
        torch.equal(each, other[key]) if isinstance(each, torch.Tensor) else each == other[key]
        for key, each in one.items()
    )


@pytest.mark.parametrize("name", DEEP)
def test_every_recipe_learns_the_same_on_a_device_of_its_own(name, monkeypatch):
    config = small(name, "cpu")
    expected = builder(RECIPES[name].algorithm)(config)
    told = [(finished_episodes(batch), numbers_of(expected.learn(batch))) for batch in expected.collector]
    with standing_in(monkeypatch) as standin:
        pipeline = builder(RECIPES[name].algorithm)(small(name, "cuda"))
        assert all(isinstance(each, Away) for each in pipeline.state["loss"].parameters())
        standin.counted()
        reads = len(pipeline.policy.in_keys)
        for (episodes, scalars), batch in zip(told, pipeline.collector, strict=True):
            # what the policy reads goes up and its actions come down in each step, all else goes up once
            assert standin.counted() == (config.rollout_steps * reads + 1, config.rollout_steps, 0)
            assert all(isinstance(each, Away) for each in batch.values(True, True))
            assert finished_episodes(batch) == episodes
            assert standin.counted() == (0, 1, 0)
            learned = pipeline.learn(batch)
            up, down, waits = standin.counted()
            # frames are told apart by the host, which draws what is learned from as well
            frames = getattr(config, "replay_storage", "transitions") == "frames"
            between = (6 + learned["updates"], 5) if frames else (0, RECIPES[name].algorithm == "reinforce")
            assert (up, down) == between
            # of no update, but where returns are normalised in each episode
            grouped = getattr(config, "normalize", "") == "episode"
            assert waits <= (1 + learned["updates"] if grouped else 3 + reads)
            assert numbers_of(learned) == scalars
            assert standin.counted() == (0, learned["updates"] > 0, 0)
        assert equal(pipeline.state["loss"].state_dict(), expected.state["loss"].state_dict())
        assert equal(pipeline.state["random"].state_dict(), expected.state["random"].state_dict())
        pipeline.close()
    expected.close()


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", ["dqn", "ppo/inverted-double-pendulum"])
def test_an_evaluation_is_the_same(name, stochastic, monkeypatch):
    def judge(pipeline, config):
        settings = {"episodes": 3, "seed": 5, "stochastic": stochastic, "transforms": pipeline.transforms}
        seen = evaluate(pipeline.policy, config.eval_env, **settings)
        player = Player(config.eval_env, pipeline.policy, 3, pipeline.transforms, stochastic, max_steps=4)
        return seen, player.play(lambda moment: True, lambda step: False)

    config = small(name, "cpu")
    expected = builder(RECIPES[name].algorithm)(config)
    judged = judge(expected, config)
    with standing_in(monkeypatch):
        pipeline = builder(RECIPES[name].algorithm)(small(name, "cuda"))
        before = plain(pipeline.state["random"].state_dict())
        assert judge(pipeline, config) == judged
        assert equal(pipeline.state["random"].state_dict(), before)
        pipeline.close()
    expected.close()


RESUMED = {"dqn": {"updates": 1}, "reinforce": {"max_episode_steps": 20}, "ppo/inverted-double-pendulum": {}}


def train_small(folder, name, config, kill=None):
    """Train, or go on where there is a folder, until the `kill`th batch is to be learned from."""
    pipeline = builder(RECIPES[name].algorithm)(config)
    with Run(folder, name, built_from=BuiltFrom(RECIPES[name].algorithm, config), resume=folder.exists()) as run:
        if kill is None:
            train(pipeline, run, checkpoint_every=48)
        else:
            pipeline.learn = killed_at(kill, pipeline.learn)
            with pytest.raises(Killed):
                train(pipeline, run, checkpoint_every=48)
    pipeline.close()


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_where_it_stopped(name, tmp_path, monkeypatch):
    config = small(name, "cuda", **RESUMED[name])
    with standing_in(monkeypatch):
        train_small(tmp_path / "whole", name, config)
        train_small(tmp_path / "killed", name, config, kill=4)
        train_small(tmp_path / "killed", name, config)
    one, other = ([untimed(line) for line in lines(tmp_path / folder, "metrics")] for folder in ("killed", "whole"))
    assert one == other
    assert len(one) == BATCHES
    # and without the device: to evaluate, draw or export it needs none
    with trained(tmp_path / "whole") as agent:
        assert agent.config.device == "cuda"
        assert all(each.device == HOST for each in agent.policy.parameters())


def lines(folder, journal):
    return [json.loads(line) for line in text(folder, journal).splitlines()]


def untimed(line):
    return {key: value for key, value in line.items() if key not in ("seconds", "frames_per_second")}


@pytest.fixture
def run_of_cuda(tmp_path, monkeypatch):
    """The folder of a run whose config says cuda, and CUDA graphs; the recordings are left as they are."""
    monkeypatch.setattr("rlpipe.pipelines.updates.recorder.graphed", lambda function, inputs, state: function)
    with pytest.MonkeyPatch.context() as patched, standing_in(patched):
        train_small(tmp_path / "run", "ppo", small("ppo", "cuda", cuda_graphs=True))
    return tmp_path / "run"


def test_commands_read_a_run_of_cuda_without_it(run_of_cuda, capsys, monkeypatch):
    assert run(["evaluate", str(run_of_cuda), "--episodes", "2"]) == 0
    assert run(["export", str(run_of_cuda), "--format", "safetensors", "--out", str(run_of_cuda / "policy")]) == 0
    assert run(["render", str(run_of_cuda), "--out", str(run_of_cuda / "agent.gif"), "--max-steps", "3"]) == 0
    # of runs that were evaluated at their end
    final = {"frames": BATCHES * 24, "seconds": 1.0, "final": True, "returns": [6.0], "lengths": [6]}
    (run_of_cuda / "evaluations.jsonl").write_text(f"{json.dumps(final)}\n")
    assert run(["table", str(run_of_cuda)]) == 0
    capsys.readouterr()
    # it is trained where it was begun
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["resume", str(run_of_cuda), "--total-frames", "500", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rlpipe: error: device is 'cuda', but PyTorch finds no CUDA device here; use --device cpu")
    assert error.count("\n") == 1


def test_a_device_that_does_not_work_is_told_of(monkeypatch):
    def fail():
        raise RuntimeError("The NVIDIA driver on your system is too old\nsee above")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", fail)
    with pytest.raises(Exception, match="^device is 'cuda', and the CUDA device here does not work: The .* too old$"):
        builder("ppo")(small("ppo", "cuda"))


@pytest.mark.parametrize("storing", ["policy", "host"])
def test_stock_policies_collect_on_both(storing, monkeypatch, identical):
    def collect(device):
        env = make_env(EnvConfig("CartPole-v1", 3, max_episode_steps=5), seed=4)
        torch.manual_seed(0)
        network = MLP(4, 2, (8,)).to(device)
        policy = TensorDictModule(lambda seen: network(seen).argmax(-1), ["observation"], ["action"])
        where = {} if device == HOST else {"policy_device": device, "env_device": "cpu"}
        if where and storing == "policy":
            where["storing_device"] = device
        collector = SyncDataCollector(env, policy, frames_per_batch=30, total_frames=60, trust_policy=True, **where)
        batches = list(collector)
        assert all(isinstance(each, Away) for batch in batches for each in batch.values(True, True)) == (
            "storing_device" in where
        )
        return [batch.cpu() for batch in batches]

    expected = collect(HOST)
    with standing_in(monkeypatch):
        actual = collect(DEVICE)
        for one, other in zip(actual, expected, strict=True):
            identical(one, other)
            assert one.names == other.names


def test_prioritised_replay(monkeypatch):
    def learn(device):
        torch.manual_seed(0)
        spec = make_env(EnvConfig("CartPole-v1", 2)).action_spec
        loss = DQNLoss(QActor(MLP(4, 2, (8,)), spec), prioritized=True).to(device)
        update = gradient_step(loss, torch.optim.Adam(loss.parameters(), fused=True), execution="recorded")
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(30, device=device),
            sampler=PrioritizedSampler(30),
            batch_size=6,
            generator=Seeds(0).generator("replay", device),
        )
        learning = off_policy(buffer, update, updates=6, warmup=0, keys=loss.in_keys)
        numbers = np.random.default_rng(0)
        after = {"observation": numbers.normal(size=(2, 10, 4)), "reward": numbers.normal(size=(2, 10, 1))}
        step = {"observation": numbers.normal(size=(2, 10, 4)), "action": numbers.integers(2, size=(2, 10))}
        batch = TensorDict({**step, "next": {**after, "terminated": np.zeros((2, 10, 1), bool)}}, [2, 10])
        batch = batch.apply(lambda each: each.float() if each.is_floating_point() else each)
        return [numbers_of(learning(batch.to(device))) for _ in range(4)], buffer.sampler.state_dict()["raised"]

    scalars, priorities = learn(HOST)
    with standing_in(monkeypatch):
        there, kept = learn(DEVICE)
    assert there == scalars
    assert (kept == priorities).all()


def test_box_actions_send_no_constants(monkeypatch):
    spec = make_env(EnvConfig("Pendulum-v1", 2)).action_spec
    actor = GaussianActor(MLP(3, 1, (8,)), spec)
    alone = TanhNormal(torch.zeros(2, 1), torch.ones(2, 1), actor.low, actor.high).entropy()
    with standing_in(monkeypatch) as standin:
        actor.to(DEVICE)
        seen = TensorDict({"observation": torch.zeros(2, 3, device=DEVICE)}, [2])
        standin.counted()
        entropy = actor.get_dist(seen).entropy()
        assert standin.counted() == (0, 0, 0)
        # one that somebody builds brings them along
        bare = TanhNormal(*(torch.full((2, 1), each, device=DEVICE) for each in (0.0, 1.0)), actor.low, actor.high)
        assert torch.equal(bare.entropy().cpu(), alone)
        assert entropy.device == DEVICE


def test_the_standin_refuses_what_cuda_refuses(monkeypatch):
    with standing_in(monkeypatch) as standin:
        there = torch.arange(6.0).to(DEVICE)
        assert standin.counted() == (1, 0, 0)
        for mixed in (lambda: there + torch.ones(6), lambda: there.index_add_(0, torch.tensor([1]), torch.ones(1))):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                mixed()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, device=DEVICE, generator=Generator().manual_seed(11))
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert (there + torch.tensor(1.0)).sum().item() == 21.0
        assert standin.counted() == (0, 0, 1)
        assert there[there > 3].tolist() == [4.0, 5.0]
        assert standin.counted() == (0, 1, 1)
        assert there[torch.tensor([1])].device == DEVICE
        assert standin.counted() == (1, 0, 0)


def test_tensors_are_moved_in_one_copy(monkeypatch):
    wide = [torch.arange(3, dtype=torch.int64), torch.tensor(2.5), torch.tensor([[True], [False]]).expand(2, 3)]
    wide += [torch.zeros(0, 4), torch.arange(6.0, dtype=torch.float64).reshape(2, 3).t(), torch.tensor(7)]
    assert all(one is other for one, other in zip(moved(wide, HOST), wide, strict=True))
    assert moved([], HOST) == []
    with standing_in(monkeypatch) as standin:
        there = moved(wide, DEVICE)
        assert standin.counted() == (1, 0, 0)
        assert all(each.device == DEVICE for each in there)
        mixed = [there[0], wide[1], *there[2:]]
        back = moved(mixed, HOST)
        assert standin.counted() == (0, 1, 0)
        assert back[1] is wide[1]
        for one, other in zip(back, wide, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        batch = TensorDict({"a": torch.ones(2, 3), "next": {"b": torch.zeros(2, 3, 1, dtype=torch.bool)}}, [2, 3])
        far = sent(batch, DEVICE)
        assert standin.counted() == (1, 0, 0)
        assert (far.batch_size, far.device, far.get("next").batch_size) == ((2, 3), DEVICE, (2, 3))
        assert (far.cpu() == batch).all()


@pytest.fixture
def cuda_generators(monkeypatch):
    """The states of the generators of two GPUs that are in use, as far as anybody asks PyTorch for them."""
    states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda index: states[int(index)].clone())
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [each.clone() for each in states])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: states.__setitem__(int(index), state))

    def seed_all(seed):
        states[:] = [torch.full((16,), 2 + seed % 200, dtype=torch.uint8) for _ in states]

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    return states


def test_seeding_for_a_while_leaves_the_gpus_generators_as_they_were(cuda_generators):
    with Seeds(3).torch_seeded("global"):
        inside = [each.clone() for each in cuda_generators]
    assert all((each == inside[0]).all() for each in inside)
    assert [each[0].item() for each in cuda_generators] == [0, 1]
    assert inside[0][0].item() > 1


def test_seeding_for_a_while_begins_to_use_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", None)
    monkeypatch.setattr(torch.cuda, "device_count", None)
    with Seeds(3).torch_seeded("global"):
        first = torch.rand(1)
    with Seeds(3).torch_seeded("global"):
        assert torch.equal(torch.rand(1), first)


def test_the_gpus_generators_are_kept_wherever_there_are_as_many(cuda_generators):
    state = GlobalRandom().state_dict()
    cuda_generators[:] = [torch.full((16,), 9, dtype=torch.uint8) for _ in cuda_generators]
    GlobalRandom().load_state_dict(state)
    assert [each[0].item() for each in cuda_generators] == [0, 1]
    # a machine with fewer
    del cuda_generators[1]
    GlobalRandom().load_state_dict(state)
    assert [each[0].item() for each in cuda_generators] == [0]
