# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of recipes in several processes: the script that each of them runs, and how they are started."""

import json
import os
import subprocess
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType


CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def launch(config: str | Path, jobs: list[dict], processes: int = 2) -> None:
    """Starts processes by a configuration of accelerate, each of which runs all jobs.

    Args:
        config: The name of one that is shipped, or a file.
        jobs: Arguments of `run_recipe`.
        processes: How many.
    """
    file = config if isinstance(config, Path) else CONFIGS / f"{config}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += ["--num_processes", str(processes), __file__, json.dumps(jobs)]
    paths = [str(CONFIGS.parents[2]), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]


def shard_on_cpus() -> None:
    """Lets accelerate shard models although there is no GPU.

    It does so only if processes are of a kind that has GPUs; what follows is the same on CPUs.
    """
    start = PartialState.__init__

    def start_as_gpus(self, *args, **kwargs) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = start_as_gpus


def main() -> None:
    from rwkv7_world.training.run import run_recipe

    jobs = json.loads(sys.argv[1])
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    if any("trainer.deepspeed=" in assignment for job in jobs for assignment in job["assignments"]):
        import deepspeed

        deepspeed.init_distributed("gloo")  # which transformers does where there is a GPU
    for job in jobs:
        run_recipe(**job)


if __name__ == "__main__":
    main()
