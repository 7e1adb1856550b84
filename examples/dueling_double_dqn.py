"""Dueling Double DQN with prioritised replay and 3-step returns on CartPole-v1, in a run folder.

Wang et al. 2016 (dueling), van Hasselt et al. 2016 (double), Schaul et al. 2016 (priorities). Killed and started
again, it resumes from its newest checkpoint and ends with the same weights to the bit; `rlpipe table runs` lists it.
Reaches 325 to 476 on seeds 0 to 4 (random: 22), in 9 s.
"""

from pathlib import Path

import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer

import rlpipe
from rlpipe import EnvConfig, PrioritizedSampler, SyncDataCollector, evaluate, gradient_step, make_env, off_policy
from rlpipe.losses import DQNLoss, NStep, TargetUpdate
from rlpipe.modules import MLP, DuelingHead, EpsilonGreedy, Linear, QActor


def main(seed: int = 0, total_frames: int = 40_960, folder: str = "runs/dueling_double_dqn"):
    seeds, env_config = rlpipe.Seeds(seed), EnvConfig("CartPole-v1", num_envs=32)
    env = make_env(env_config, seed=seeds.integer("environments"))
    with seeds.torch_seeded("initialization"):
        actor = QActor(nn.Sequential(MLP(4, None, (120, 84), layer_norm=True), DuelingHead(84, 2)), env.action_spec)
    explorer = EpsilonGreedy(env.action_spec, Linear(1.0, 0.05, frames=5_000), seeds.generator("exploration"))
    policy = TensorDictSequential(actor, explorer)

    loss = DQNLoss(actor, kind="smooth_l1", double=True, n_step=True, prioritized=True)
    optimizer = torch.optim.Adam(actor.parameters(), lr=2e-3, fused=True)
    target = TargetUpdate(loss.q_network, loss.target_network, tau=0.05)
    update = gradient_step(loss, optimizer, max_norm=10.0, after=[target], execution="recorded")
    sampler, storage = PrioritizedSampler(20_000, alpha=0.6, beta=0.4), LazyTensorStorage(20_000)
    buffer = ReplayBuffer(storage=storage, sampler=sampler, batch_size=256, generator=seeds.generator("replay"))
    look_ahead, replay = NStep(gamma=0.99, n=3), off_policy(buffer, update, updates=20, warmup=1_000, keys=loss.in_keys)

    def learn(batch):
        # functions of the frames, so a run resumed with more frames has the schedule of the longer run
        share = explorer.frames / total_frames
        optimizer.param_groups[0]["lr"], sampler.beta = 2e-3 * (1 - share), 0.4 + 0.6 * share
        explorer.advance(batch)
        return replay(look_ahead(batch))

    collector = SyncDataCollector(env, policy, frames_per_batch=256, total_frames=total_frames)
    state = {"policy": policy, "loss": loss, "optimizer": optimizer, "target": target}
    state |= {"replay": rlpipe.ReplayState(buffer), "random": seeds}
    settings, folder = {"env_id": "CartPole-v1", "seed": seed, "total_frames": total_frames}, Path(folder, str(seed))
    with rlpipe.Run(folder, "dueling_double_dqn", settings=settings, resume=folder.exists()) as run:
        result = rlpipe.train(rlpipe.Pipeline(collector, learn, policy, state), run, checkpoint_every=5_120)
        evaluation = evaluate(policy, env_config, episodes=50, seed=seeds.integer("evaluation"))
        run.log_evaluation(result.frames, evaluation, seconds=result.seconds, final=True)
    return evaluation


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"mean return {main().mean:.1f} over 50 greedy episodes; at random 22")
