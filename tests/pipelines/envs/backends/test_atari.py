"""Atari games: C++ against Python step by step, and what their ids prescribe."""

import itertools
import sys

import forked
import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, env_spec, make_env
from rlpipe.pipelines.envs.backends.atari_game import AtariGame
from rlpipe.pipelines.envs.backends.atari_vector import AtariGames
from rlpipe.pipelines.envs.rendering import make_drawn
from rlpipe.scripts.main import run

BREAKOUT = "ALE/Breakout-v5"


@pytest.fixture(autouse=True)
def ale():
    """ALE, or no tests."""
    return pytest.importorskip("ale_py", reason='needs ALE: pip install "rlpipe[atari]"')


@pytest.fixture
def without_ale(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "ale_py"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ale_py", None)


@pytest.fixture
def make(request):
    def made(*arguments, seed=0, **options):
        env = make_env(EnvConfig(*arguments, **options), seed=seed)
        request.addfinalizer(env.close)
        return env

    return made


def draw(env, steps, seed=0):
    return np.random.default_rng(seed).integers(env.single_action_space.n, size=(steps, env.num_envs))


def begin(game, seed):
    """Begin a single game as the vector environment begins one."""
    game._game.ale.setInt("random_seed", seed)
    game._game.load_game()
    return game.reset()[0]


def alike(one, other):
    """Images alike but for rounding."""
    return np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize(("name", "steps", "limit"), [("Breakout", 330, 180), ("Pong", 50, 40)])
def test_cpp_and_python_agree_step_by_step_through_the_ends_of_games(name, steps, limit):
    spec, seeds = env_spec(f"ALE/{name}-v5"), [5, 6]
    games, singles = AtariGames(spec, 2, limit), [AtariGame(spec, limit) for _ in range(2)]
    assert spec.kwargs["repeat_action_probability"] == 0.25
    images, told = games._games.reset(seed=np.array(seeds))
    for index, single in enumerate(singles):
        first = begin(single, seeds[index])
        assert alike(first["observation"], images[index])
        assert first["lives"] == told["lives"][index]
        assert not first["observation"][:-1].any()
    overs = cuts = lost = 0
    for action in draw(games, steps):
        observation, reward, terminated, truncated, info = games.step(action)
        for index, single in enumerate(singles):
            own, earned, over, cut, _ = single.step(action[index])
            assert (earned, over, cut) == (reward[index], terminated[index], truncated[index])
            if over or cut:
                last = info["final_obs"][index]
                assert last["lives"] == own["lives"]
                # of a game that is over, ALE shows frames from before its end
                assert alike(own["observation"][:3], last["observation"][:3])
                assert over or alike(own["observation"], last["observation"])
                own = single.reset()[0]
                overs, cuts = overs + over, cuts + cut
            lost += own["lives"] < 5
            assert alike(own["observation"], observation["observation"][index])
            assert own["lives"] == observation["lives"][index]
    assert cuts
    assert name == "Pong" or (overs and lost)
    games.close()


def test_what_a_step_returned_is_not_written_into_by_the_next():
    games = AtariGames(env_spec("ALE/Pong-v5"), 2, 6)
    seen = [games.reset(seed=0)[0]["observation"]]
    copies = [seen[0].copy()]
    for action in draw(games, 12):
        observation, *_, info = games.step(action)
        images = [observation["observation"], *(row["observation"] for row in info.get("final_obs", ()))]
        seen.extend(images)
        copies.extend(each.copy() for each in images)
    assert len(seen) > 13
    assert all((one == other).all() for one, other in zip(seen, copies, strict=True))
    games.close()


def test_the_limit_of_the_id_is_kept_in_steps(monkeypatch):
    for env_id in ("ALE/Pong-v5", "ale_py:ALE/Pong-v5"):
        spec = env_spec(env_id)
        # 108 000 emulated frames, 4 a step
        assert spec.max_episode_steps == 27_000
        games = AtariGames(spec)
        games.reset(seed=0)
        games._steps[:] = 26_998
        assert [games.step(np.array([0]))[3].item() for _ in range(3)] == [False, True, False]
        games.close()


def rollout(env, steps=40, actions=None):
    base = env.base_env
    base.restart()
    actions = draw(base.envs, steps) if actions is None else actions
    return np.stack([base.advance(action)["observation"] for action in actions])


def test_seeds_decide_everything_and_threads_nothing(make):
    actions = np.repeat(draw(make("ALE/Pong-v5").base_env.envs, 20), 3, axis=1)
    one = rollout(make("ALE/Pong-v5", 3), actions=actions)
    assert (one == rollout(make("ALE/Pong-v5", 3), actions=actions)).all()
    assert (one != rollout(make("ALE/Pong-v5", 3, seed=1), actions=actions)).any()
    for a, b in itertools.combinations(range(3), 2):
        assert (one[:, a] != one[:, b]).any()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (one == rollout(make("ALE/Pong-v5", 3), actions=actions)).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["auto", "sync"])
def test_as_a_torchrl_environment(make, backend):
    env = make(BREAKOUT, 2, backend, max_episode_steps=7)
    check_env_specs(env)
    batch = env.rollout(9, break_when_any_done=False)
    assert batch["observation"].shape == (2, 9, 4, 84, 84)
    assert batch["observation"].dtype is torch.uint8
    assert batch["next", "truncated"][:, 6].all()
    assert batch["step_count"][0].flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert (batch["lives"] == 5).all()
    assert torch.equal(batch["next", "observation"][:, :6], batch["observation"][:, 1:7])
    assert not batch["observation"][:, 7, :3].any()
    assert batch["next", "observation"][:, 6, 0].any()


def test_games_seen_from_pixels_greet_nobody(capfd):
    code = (
        "from rlpipe.pipelines.envs import EnvConfig, make_env\n"
        f"make_env(EnvConfig({BREAKOUT!r}, from_pixels=True), seed=0).close()"
    )
    assert forked.Python("-c", code).wait() == 0
    assert capfd.readouterr() == ("", "")


def test_drawn_games_are_in_color():
    env = make_drawn(EnvConfig(BREAKOUT), seed=0)
    env.reset()
    image = env.base_env.envs.envs[0].render()
    assert image.shape == (210, 160, 3)
    assert (image[..., 0] != image[..., 1]).any()
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("ALE/Pnog-v5",), "env-id is 'ALE/Pnog-v5', which Gymnasium does not know; did you mean ALE/Pong-v5"),
        (("ALE/Pong-v4",), "did you mean ALE/Pong-v5"),
        (("Breakout-v5",), r"did you mean ALE/Breakout-v5\?"),
        (("ale/pong-v5",), r"did you mean ALE/Pong-v5\?"),
        (("PongNoFrameskip-v9",), "does not know; see gymnasium.pprint_registry"),
        ((BREAKOUT, 1, "envpool"), "EnvPool has no version known to match|whose package is missing"),
    ],
)
def test_games_that_cannot_be_had(options, message):
    with pytest.raises(ConfigError, match=message):
        make_env(EnvConfig(*options))


def test_a_missing_package_names_its_extra(without_ale, capsys):
    assert run(["train", "ppo/atari"]) == 2
    assert 'which Gymnasium does not know; it needs an extra: pip install "rlpipe[atari]"' in capsys.readouterr().err
