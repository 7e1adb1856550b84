"""How fast collectors on Ray start and collect, and what is sent: `python tests/soak/ray_speed.py [ROUNDS]`.

Each environment is collected from by one collector in this process, and by one and two on Ray, in turn.
"""

import pickle
import sys
import time
from dataclasses import replace
from statistics import median

import torch

from rlpipe.pipelines import ppo
from rlpipe.pipelines.fleet import get_streams, make_payload
from rlpipe.pipelines.ray_cluster import RayConnection

CONFIGS = {
    "CartPole-v1": ppo.Config(num_envs=16, rollout_steps=64),
    "InvertedDoublePendulum-v5": ppo.Config(env_id="InvertedDoublePendulum-v5", num_envs=16, rollout_steps=64),
}
KINDS = {
    "local": {},
    "1 on Ray": {"collector": "ray"},
    "2 on Ray": {"collector": "ray", "num_collectors": 2},
}
WARMUP = 3


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    connection = RayConnection(None, 2)
    print(f"Ray starts in {time.perf_counter() - started:.1f} s")
    for name, config in CONFIGS.items():
        for kind, changes in KINDS.items():
            measure(f"{name}, {kind}", replace(config, total_frames=10_000_000, **changes), rounds)
    connection.close()


def measure(title: str, config: ppo.Config, rounds: int) -> None:
    started = time.perf_counter()
    pipeline = ppo.build(config)
    try:
        begun, seconds = time.perf_counter() - started, []
        batches = iter(pipeline.collector)
        for _ in range(rounds + WARMUP):
            started = time.perf_counter()
            batch = next(batches)
            seconds.append(time.perf_counter() - started)
        frames = batch.numel() / median(seconds[WARMUP:])
        print(f"{title}: starts in {begun:.1f} s, {frames:,.0f} frames a second")
        if config.collector == "ray":
            payload = make_payload(pipeline.policy, pipeline.collector._transforms, get_streams(pipeline.policy))
            there, back = len(pickle.dumps((payload,))), len(pickle.dumps(batch))
            print(f"    a round: {there:,} bytes to each collector, {back:,} back from all, {batch.numel():,} frames")
    finally:
        pipeline.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
