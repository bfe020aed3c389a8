"""What the engine tests train, and the program that trains it on real ranks: `python engine_scenario.py JOB`.

DeepSpeed and process groups leave state in a process, so each rank runs in a process of its own. It goes through all
variants, and writes states as safetensors and reports as JSON for the tests to compare.
"""

import dataclasses
import gc
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advdmd_ray.learner.deepspeed_engine import ZeroStage, import_deepspeed
from advdmd_ray.learner.engine import Engine, build_engine
from advdmd_ray.learner.engine_state import StepReport
from advdmd_ray.learner.gang import Gang, SoloGang, TorchDistributedGang
from advdmd_ray.learner.parts import LossPart
from leaving import all_done

OBJECTIVES = {"dmd": 1e-3, "rl": 5e-4}
STEPS = 6
SAVED_AT = 3
MIXED = torch.linspace(-1, 1, 15).reshape(3, 5)
BATCH = 8
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Variant:
    """A ZeRO stage, with or without moments in host memory."""

    stage: ZeroStage
    offload: bool = False

    def __str__(self) -> str:
        return f"{self.stage}{'-offload' if self.offload else ''}"


VARIANTS = (*(Variant(stage) for stage in (0, 1, 2, 3)), *(Variant(stage, offload=True) for stage in (1, 2, 3)))
# ZeRO stages of two engines in one process.
PAIRS: tuple[tuple[ZeroStage, ZeroStage], ...] = ((2, 1), (3, 3), (3, 1))
# From whose checkpoint each variant goes on in the tests: another stage's, in a circle.
SOURCE = dict(zip(VARIANTS, (*VARIANTS[1:], VARIANTS[0]), strict=True))


class Network(nn.Module):
    """Odd sizes, a frozen part, and a parameter that only the DMD loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 7).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 3))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, *, scaled: bool) -> Tensor:
        y = self.body(self.frozen(x).sin())
        return y * self.scale if scaled else y


def network(seed: int = 0) -> Network:
    """Trainable weights by seed, the frozen ones always the same: they come with the model, not with a checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Network()
        torch.manual_seed(0)
        made.frozen.reset_parameters()
    return made


def objective_of(step: int) -> str:
    return "rl" if step % 3 == 1 else "dmd"


def batch_of(step: int, gang: Gang) -> tuple[Tensor, Tensor]:
    """This rank's share."""
    generator = torch.Generator().manual_seed(100 + step)
    x, y = torch.randn(BATCH, 5, generator=generator), torch.randn(BATCH, 3, generator=generator)
    return x.chunk(gang.size)[gang.rank], y.chunk(gang.size)[gang.rank]


def loss_of(engine: Engine, step: int, gang: Gang) -> Tensor:
    """This rank's share of the batch of one step.

    The DMD loss has a term that does not reach `scale`. The RL loss is a million times smaller, and sums over two
    forward passes, as over the steps of a rollout.
    """
    x, y = batch_of(step, gang)
    if objective_of(step) == "dmd":
        return (engine(x, scaled=True) - y).square().mean() + 0.1 * engine(y @ MIXED, scaled=False).square().mean()
    first, second = engine(x, scaled=False), engine(-x, scaled=False)
    return 1e-6 * ((first - y).square().mean() + (second + y).square().mean())


def parts_of(engine: Engine, step: int, gang: Gang) -> list[LossPart]:
    """The same loss in parts of unequal size; not every part reaches every parameter."""
    x, y = batch_of(step, gang)
    rows = len(x)

    def term(inputs: Tensor, target: Tensor, share: float, *, scaled: bool) -> Tensor:
        return share * (engine(inputs, scaled=scaled) - target).square().mean()

    if objective_of(step) == "dmd":
        return [
            partial(term, x[:1], y[:1], 1 / rows, scaled=True),
            partial(term, y @ MIXED, torch.zeros_like(y), 0.1, scaled=False),
            partial(term, x[1:], y[1:], (rows - 1) / rows, scaled=True),
        ]
    return [partial(term, x, y, 1e-6, scaled=False), partial(term, -x, -y, 1e-6, scaled=False)]


def train(engine: Engine, steps: range, gang: Gang, *, parted: bool = False) -> list[StepReport]:
    return [
        engine.step(
            parts_of(engine, step, gang) if parted else [partial(loss_of, engine, step, gang)], objective_of(step)
        )
        for step in steps
    ]


def build(kind: Literal["deepspeed", "torch"], variant: Variant, gang: Gang, seed: int = 0) -> Engine:
    return build_engine(
        network(seed),
        kind=kind,
        objectives=OBJECTIVES,
        weight_decay=0.01,
        max_grad_norm=0.5,
        zero_stage=variant.stage,
        offload_optimizer=variant.offload,
        gang=gang,
    )


def save(engine: Engine, path: Path, gang: Gang) -> None:
    tensors = {"weights:" + k: v for k, v in engine.state_dict().items()}
    tensors |= {"optimizer:" + k: v for k, v in engine.optimizer_state().items()}
    if gang.rank == 0:
        save_file(tensors, path)
    gang.mean(torch.zeros(1))  # nobody reads before it is written


def restore(engine: Engine, path: Path) -> None:
    tensors = load_file(path)
    for kind, load in (("weights:", engine.load_state_dict), ("optimizer:", engine.load_optimizer_state)):
        load({key.removeprefix(kind): tensor for key, tensor in tensors.items() if key.startswith(kind)})


def uninterrupted(folder: Path, variant: Variant, gang: Gang) -> list[StepReport]:
    engine = build("deepspeed", variant, gang)
    reports = train(engine, range(SAVED_AT), gang)
    save(engine, folder / f"saved-{gang.size}-{variant}.safetensors", gang)
    reports += train(engine, range(SAVED_AT, STEPS), gang)
    save(engine, folder / f"final-{gang.size}-{variant}.safetensors", gang)
    return reports


def in_parts(folder: Path, variant: Variant, gang: Gang) -> None:
    """Every loss in parts, with two updates after which the next is as if they had not been.

    One is spoilt by a part, and one is not wanted.
    """
    engine = build("deepspeed", variant, gang)
    train(engine, range(SAVED_AT), gang, parted=True)
    first, *others = parts_of(engine, SAVED_AT, gang)
    bad = engine.step([lambda: first() * float("nan"), *others], objective_of(SAVED_AT))
    assert (bad.skipped, bad.idle) == (True, False)
    idle = engine.step([first, *others], objective_of(SAVED_AT), wanted=lambda: False)
    assert (idle.skipped, idle.idle) == (False, True)
    train(engine, range(SAVED_AT, STEPS), gang, parted=True)
    save(engine, folder / f"parts-{gang.size}-{variant}.safetensors", gang)


def resumed(folder: Path, variant: Variant, gang: Gang, source: Variant) -> None:
    """Goes on from what `source` saved on two ranks."""
    engine = build("deepspeed", variant, gang, seed=1)
    restore(engine, folder / f"saved-2-{source}.safetensors")
    name = f"{source}-to-{gang.size}-{variant}.safetensors"
    save(engine, folder / f"restored-{name}", gang)
    train(engine, range(SAVED_AT, STEPS), gang)
    save(engine, folder / f"resumed-{name}", gang)


def poisoned(folder: Path, variant: Variant, gang: Gang) -> list[StepReport]:
    """A loss that is not finite on the last rank only, then a good one."""
    engine = build("deepspeed", variant, gang)
    train(engine, range(SAVED_AT), gang)
    poison = float("nan") if gang.rank == gang.size - 1 else 1.0
    bad = engine.step([lambda: loss_of(engine, SAVED_AT, gang) * poison], "dmd")
    save(engine, folder / f"poisoned-{gang.size}-{variant}.safetensors", gang)
    return [bad, engine.step([partial(loss_of, engine, SAVED_AT, gang)], "dmd")]


def passes(engine: Engine) -> dict[str, Tensor]:
    """Passes through the module that make no step: a sample, an input gradient, and both with other weights."""
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(7))
    others = {name: torch.full_like(tensor, 0.1) for name, tensor in engine.state_dict().items()}
    found = {}
    for who in ("own", "others", "own again"):
        with engine.wearing(others.items()) if who == "others" else nullcontext(engine.module) as module:
            leaf = x.clone().requires_grad_()
            found[f"{who}:gradient"] = torch.autograd.grad(module(leaf, scaled=True).square().sum(), leaf)[0]
            with torch.no_grad():
                found[f"{who}:sample"] = module(x, scaled=True)
    return found


def looked_at(folder: Path, variant: Variant, gang: Gang) -> None:
    """Passes between steps, which must neither see old weights nor leave anything behind."""
    engine = build("deepspeed", variant, gang)
    for step in range(SAVED_AT):
        passes(engine)
        engine.step([partial(loss_of, engine, step, gang)], objective_of(step))
    found = {"passes:" + name: tensor for name, tensor in passes(engine).items()}
    found |= {"weights:" + name: tensor for name, tensor in engine.state_dict().items()}
    save_file(found, folder / f"passes-{gang.size}-{variant}-{gang.rank}.safetensors")


def mean_square(engine: Engine, x: Tensor) -> Tensor:
    return engine(x).square().mean()


def two_engines(
    folder: Path, kind: Literal["deepspeed", "torch"], gang: Gang, stages: tuple[ZeroStage, ZeroStage]
) -> None:
    """A student learns from a critic's input gradient while the critic learns on its own, interleaved."""
    student = build(kind, Variant(stages[0]), gang)
    critic = build_engine(
        nn.Linear(3, 1, bias=False), kind=kind, objectives={"critic": 1e-2}, zero_stage=stages[1], gang=gang
    )
    critic.load_state_dict({"weight": torch.tensor([[0.3, -0.2, 0.1]])})
    for step in range(4):
        x = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(step)).chunk(gang.size)[gang.rank]
        made = student(x, scaled=True)
        detached = made.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic.module(detached).mean(), detached)
        loss = (made * gradient).sum()
        student.step([partial(torch.clone, loss)], "dmd")
        critic.step([partial(mean_square, critic, made.detach())], "critic")
    weights = {**student.state_dict(), **critic.state_dict()}
    if gang.rank == 0:
        save_file(weights, folder / f"two-{kind}-{gang.size}-{stages[0]}{stages[1]}.safetensors")


def main(job: dict[str, str | int]) -> None:
    torch.set_num_threads(1)
    rank, size, folder = int(job["rank"]), int(job["size"]), Path(str(job["folder"]))
    gang: Gang = SoloGang()
    if size > 1:
        gang = TorchDistributedGang(
            rank, size, device=torch.device("cpu"), address="127.0.0.1", port=int(job["port"]), timeout_s=DEADLINE_S
        )
    reports = {}
    for variant in VARIANTS:
        gc.freeze()  # DeepSpeed collects garbage when it builds an engine: not among all that is imported
        reports[f"train-{variant}"] = uninterrupted(folder, variant, gang)
        reports[f"poisoned-{variant}"] = poisoned(folder, variant, gang)
        looked_at(folder, variant, gang)
        in_parts(folder, variant, gang)
    for variant in VARIANTS:  # once all have saved
        resumed(folder, variant, gang, SOURCE[variant])
        if size > 1:
            resumed(folder, variant, gang, variant)
    for stages in PAIRS:
        two_engines(folder, "deepspeed", gang, stages)
    facts: dict[str, Any] = {name: [dataclasses.asdict(each) for each in some] for name, some in reports.items()}
    facts["deadlines"] = [
        group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
        for group in torch.distributed.distributed_c10d._world.pg_map
    ]
    facts["compiler"] = "torch._inductor.compile_fx" in sys.modules
    facts["mean"] = gang.mean(torch.tensor([1.0, 3.0 * rank])).tolist()
    if size > 1:
        torch.distributed.destroy_process_group()
    (folder / f"facts-{size}-{rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    import_deepspeed(torch.device("cpu"))  # once for all ranks
    # The single rank goes on from what two saved.
    for size, port in ((2, asked["port"]), (1, 0)):
        jobs = [{"rank": rank, "size": size, "port": port, "folder": asked["folder"]} for rank in range(size)]
        if not all_done(partial(main, job) for job in jobs):
            sys.exit(f"a rank of {size} failed")
