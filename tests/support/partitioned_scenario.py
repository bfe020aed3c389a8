"""Whole learners whose weights are spread over two ranks: `python partitioned_scenario.py JOB.json` is one rank.

Each rank makes the groups of every cycle with the published weights, which are the same everywhere, and learns from
its share. What rank 0 says is compared with one process in plain torch.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.learner.gang import Gang, TorchDistributedGang
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import build_learner, build_reward_worker, build_rollout_worker
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.reward import group_info

# The teacher is in no engine; its heads learn as those of the fake score's backbone do.
CYCLES: dict[Literal["fake_score", "own"], int] = {"fake_score": 2, "own": 1}


def config(pipeline: Path, backbone: str, **learner: Any) -> Config:
    """Every kind of pass: with and without a gradient, an input gradient, in parts, activations made again."""
    return Config.model_validate(
        {
            "model": {"path": str(pipeline)},
            "diffusion": {"sigmas": (1.0, 0.6)},
            "rollout": {"group_size": 4, "groups_per_cycle": 2},
            "learner": {"micro_batch": 3, "gradient_checkpointing": True} | learner,
            "reward": {"final_levels": (0.1,)},
            "dmd": {"batch_size": 4, "gan_weight": 0.5},
            "fake_score": {"batch_size": 4},
            "discriminator": {
                "batch_size": 4,
                "backbone": backbone,
                "blocks": (0, 1),
                "auc_low": 0.0,
                "auc_high": 1.0,
                "auc_rows": 2,
            },
            "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
        }
    )


def learned(settings: Config, gang: Gang, cycles: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What is published after some cycles, the average and a sample of it, and what each cycle reported."""
    table = encode_table(settings)
    gc.freeze()  # DeepSpeed collects garbage when it builds an engine: not among all that is imported
    learner = build_learner(settings, gang, table, None)
    actor, judge = build_rollout_worker(settings, "actor", table), build_reward_worker(settings, "judge", table)
    facts = []
    for cycle in range(cycles):
        student, discriminator = learner.snapshots()
        actor.load(student)
        judge.load(discriminator)
        groups = [judge.score(actor.generate(Lease(o, 0, o, 17 + o, cycle))) for o in (2 * cycle, 2 * cycle + 1)]
        infos = [group_info(group, size_bytes=0) for group in groups]
        report = learner.cycle(groups[gang.rank :: gang.size], infos)
        assert report.policy is not None
        facts.append(
            {name: (update.loss, update.gradient_norm) for name, update in report.updates.items()} | {"auc": report.auc}
        )
    student, discriminator = learner.published()
    states = {"student": student, "discriminator": discriminator, "ema": learner.ema()}
    tensors = {f"{stem}:{name}": tensor for stem, state in states.items() for name, tensor in state.items()}
    if gang.rank == 0:  # alone
        tensors["sample"] = learner.sample_ema(table.rows(torch.tensor([1, 2])), [5, 6])
    return tensors, facts


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    folder = Path(job["folder"])
    gang = TorchDistributedGang(
        job["rank"], job["size"], device=torch.device("cpu"), address="127.0.0.1", port=job["port"], timeout_s=120.0
    )
    for backbone, cycles in CYCLES.items():
        settings = config(Path(job["pipeline"]), backbone, zero_stage=3, ranks=job["size"])
        tensors, facts = learned(settings, gang, cycles)
        if gang.rank == 0:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{backbone}.safetensors"
            )
            (folder / f"{backbone}.json").write_text(json.dumps(facts))
    gang.mean(torch.zeros(1))  # rank 0 may still write
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
