"""Whole learners whose weights are spread over two ranks: `python partitioned_scenario.py JOB`.

Each rank makes the groups of every cycle with the published weights, which are the same everywhere, and learns from
its share. What rank 0 says is compared with one process in plain torch.
"""

import gc
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.learner.deepspeed_engine import import_deepspeed
from advdmd_ray.learner.gang import Gang, TorchDistributedGang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.networks import import_networks
from advdmd_ray.runs.parts.workers import build_learner, build_reward_worker, build_rollout_worker
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.reward import group_info
from advdmd_ray.stations.weights.snapshot import Snapshot
from held_tensors import Live
from leaving import all_done

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
                "text_errors": None,
                "auc_high": 1.0,
                "auc_rows": 2,
            },
            "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
        }
    )


def published(learner: Learner, gang: Gang) -> tuple[Snapshot, Snapshot]:
    """What rank 0 publishes, on every rank."""
    weights = learner.published()
    box = [learner.packed(*weights) if gang.rank == 0 else None]
    if gang.size > 1:
        torch.distributed.broadcast_object_list(box)
    assert box[0] is not None
    return box[0]


def saved(learner: Learner, gang: Gang, table: PromptTable, folder: Path) -> dict[str, int]:
    """Saves a checkpoint as a rank does, and counts the bytes of the tensors that each of its parts makes."""
    worker = LearnerWorker(
        learner._config,
        gang,
        learner,
        table,
        checkpoints=folder,
        grid_path=lambda _: folder,
        thin_grids=lambda _: None,
        pixels=[(8, 8)],
        decode=None,
        judge=None,
    )
    peaks = {}
    for name, collective in {
        "averages": lambda: learner._averages.update(keep="student"),
        "publication": worker.publication,
        "checkpoint": lambda: worker.checkpoint({}),
    }.items():
        there_before = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
        with Live(there_before) as live:
            collective()
        peaks[name] = live.peak
    return peaks


def learned(
    settings: Config, gang: Gang, cycles: int, folder: Path | None = None
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What is published after some cycles, the average and a sample of it, and what each cycle reported.

    If there is a folder, a checkpoint is saved in it, and beside it what each rank held to do so.
    """
    table = encode_table(settings)
    gc.freeze()  # DeepSpeed collects garbage when it builds an engine: not among all that is imported
    learner = build_learner(settings, gang, table, None)
    actor, judge = build_rollout_worker(settings, "actor", table), build_reward_worker(settings, "judge", table)
    facts = []
    for cycle in range(cycles):
        student, discriminator = published(learner, gang)
        actor.load(student)
        judge.load(discriminator)
        groups = [judge.score(actor.generate(Lease(o, 0, o, 17 + o, cycle))) for o in (2 * cycle, 2 * cycle + 1)]
        infos = [group_info(group, size_bytes=0) for group in groups]
        lies = [group.group.latents.tobytes() + group.group.means.tobytes() for group in groups]
        report = learner.cycle(groups[gang.rank :: gang.size], infos)
        assert [group.group.latents.tobytes() + group.group.means.tobytes() for group in groups] == lies
        assert report.policy is not None
        facts.append(
            {name: (update.loss, update.gradient_norm) for name, update in report.updates.items()} | {"auc": report.auc}
        )
    student, discriminator = learner.published()
    tensors: dict[str, Tensor] = {}
    if gang.rank == 0:
        states = {"student": student, "discriminator": discriminator, "ema": learner.ema()}
        tensors = {f"{stem}:{name}": tensor.clone() for stem, state in states.items() for name, tensor in state.items()}
    if gang.rank == 0:  # alone
        tensors["sample"] = learner.sample_ema(table.rows(torch.tensor([1, 2])), [5, 6])
    if folder is not None:
        peaks = saved(learner, gang, table, folder)
        folder.with_suffix(f".{gang.rank}.json").write_text(json.dumps(peaks))
    return tensors, facts


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    folder = Path(job["folder"])
    gang = TorchDistributedGang(
        job["rank"], job["size"], device=torch.device("cpu"), address="127.0.0.1", port=job["port"], timeout_s=120.0
    )
    for backbone, cycles in CYCLES.items():
        settings = config(Path(job["pipeline"]), backbone, zero_stage=3, ranks=job["size"])
        tensors, facts = learned(settings, gang, cycles, folder / backbone)
        if gang.rank == 0:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{backbone}.safetensors"
            )
            (folder / f"{backbone}.json").write_text(json.dumps(facts))
    gang.mean(torch.zeros(1))  # rank 0 may still write
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    import_networks(
        Config.model_validate({"model": {"path": asked["pipeline"]}}), whole=True
    )  # as a learner's rank does
    import_deepspeed(torch.device("cpu"))
    if not all_done(partial(main, {**asked, "rank": rank}) for rank in range(asked["size"])):
        sys.exit("a rank failed")
