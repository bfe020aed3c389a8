"""The DeepSpeed engine against plain torch, over ranks, ZeRO stages and restarts."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import engine_scenario as scenario
from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.learner.deepspeed_engine import ZeroStage
from advdmd_ray.learner.engine import build_engine
from advdmd_ray.learner.gang import SoloGang
from engine_scenario import Variant
from ports import free_port

PLAIN = scenario.Variant(0)
SCRIPT = Path(scenario.__file__)
ROOT = SCRIPT.parents[2]


def launch(folder: Path) -> str:
    """Runs the scenario on two ranks and on one, warnings as errors; returns what they printed."""
    job = json.dumps({"port": free_port(), "folder": str(folder)})
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), job],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@dataclass(frozen=True)
class Outcome:
    """What the ranks left behind."""

    folder: Path
    output: str

    def state(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def facts(self, size: int, rank: int) -> dict[str, Any]:
        return json.loads((self.folder / f"facts-{size}-{rank}.json").read_text())


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("engines")
    return Outcome(folder, launch(folder))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Plain torch, one process, the whole batch."""
    engine = scenario.build("torch", PLAIN, SoloGang())
    scenario.train(engine, range(scenario.STEPS), SoloGang())
    path = tmp_path_factory.mktemp("reference") / "final.safetensors"
    scenario.save(engine, path, SoloGang())
    return load_file(path)


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Weights within 1e-6; moments, which span orders of magnitude, relative to their largest element."""
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        scale = 1.0 if name.startswith("weights:") else max(float(tensor.abs().max()), 1e-30)
        assert tensor.dtype == b[name].dtype
        assert float((tensor - b[name]).abs().max()) <= 1e-6 * scale, name


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


each_variant = pytest.mark.parametrize("variant", scenario.VARIANTS, ids=str)
each_size = pytest.mark.parametrize("size", [1, 2])


@each_size
@each_variant
def test_deepspeed_at_any_stage_and_size_equals_plain_torch_on_the_whole_batch(
    outcome: Outcome, reference: dict[str, Tensor], variant: Variant, size: int
) -> None:
    assert_close(outcome.state(f"final-{size}-{variant}"), reference)


@each_size
@each_variant
def test_a_loss_in_parts_trains_as_the_whole_one_does_and_a_step_that_is_bad_or_unwanted_changes_nothing(
    outcome: Outcome, reference: dict[str, Tensor], variant: Variant, size: int
) -> None:
    assert_close(outcome.state(f"parts-{size}-{variant}"), reference)


def test_parts_in_plain_torch_train_as_the_whole_loss_does(reference: dict[str, Tensor], tmp_path: Path) -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    scenario.train(engine, range(scenario.STEPS), SoloGang(), parted=True)
    scenario.save(engine, tmp_path / "parts.safetensors", SoloGang())
    assert_close(load_file(tmp_path / "parts.safetensors"), reference)


def test_the_reference_learned_something_with_both_objectives(reference: dict[str, Tensor]) -> None:
    initial = dict(scenario.network().named_parameters())
    moved = {
        name: (reference[f"weights:{name}"] - parameter).abs().mean().item()
        for name, parameter in initial.items()
        if parameter.requires_grad
    }
    assert len(moved) == 5
    assert all(distance > 1e-3 for distance in moved.values())
    assert {o: int(reference[f"optimizer:{o}.steps"]) for o in scenario.OBJECTIVES} == {"dmd": 4, "rl": 2}


@each_size
@each_variant
def test_a_state_saved_on_two_ranks_is_restored_bit_for_bit_at_any_stage_on_any_number(
    outcome: Outcome, variant: Variant, size: int
) -> None:
    source = scenario.SOURCE[variant]
    assert_equal(outcome.state(f"restored-{source}-to-{size}-{variant}"), outcome.state(f"saved-2-{source}"))


@each_variant
def test_continuing_at_the_same_stage_and_size_is_bitwise_the_uninterrupted_run(
    outcome: Outcome, variant: Variant
) -> None:
    assert_equal(outcome.state(f"resumed-{variant}-to-2-{variant}"), outcome.state(f"final-2-{variant}"))


@each_size
@each_variant
def test_continuing_from_another_stage_on_any_number_is_the_uninterrupted_run(
    outcome: Outcome, variant: Variant, size: int
) -> None:
    source = scenario.SOURCE[variant]
    assert_close(outcome.state(f"resumed-{source}-to-{size}-{variant}"), outcome.state(f"final-2-{source}"))


@each_size
@each_variant
def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_and_reported_on_all(
    outcome: Outcome, variant: Variant, size: int
) -> None:
    for rank in range(size):
        bad, good = outcome.facts(size, rank)[f"poisoned-{variant}"]
        assert (bad["skipped"], bad["grad_norm"]) == (True, float("inf"))
        assert good == outcome.facts(size, rank)[f"train-{variant}"][scenario.SAVED_AT]
    assert_equal(outcome.state(f"poisoned-{size}-{variant}"), outcome.state(f"saved-{size}-{variant}"))


@each_size
@each_variant
def test_passes_between_steps_see_the_weights_of_now_or_those_that_are_worn(
    outcome: Outcome, variant: Variant, size: int
) -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    scenario.train(engine, range(scenario.SAVED_AT), SoloGang())
    expected = {"passes:" + name: tensor for name, tensor in scenario.passes(engine).items()}
    expected |= {"weights:" + name: tensor for name, tensor in engine.state_dict().items()}
    assert not torch.equal(expected["passes:own:sample"], expected["passes:others:sample"])
    assert torch.equal(expected["passes:own:sample"], expected["passes:own again:sample"])
    for rank in range(size):
        assert_close(outcome.state(f"passes-{size}-{variant}-{rank}"), expected)


def test_ranks_and_engines_report_the_same_norms(outcome: Outcome) -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    expected = scenario.train(engine, range(scenario.STEPS), SoloGang())
    for size, rank in ((1, 0), (2, 0), (2, 1)):
        for variant in scenario.VARIANTS:
            reports = outcome.facts(size, rank)[f"train-{variant}"]
            for report, reference in zip(reports, expected, strict=True):
                assert report["grad_norm"] == pytest.approx(reference.grad_norm, rel=1e-5)
                assert not report["skipped"]


@pytest.mark.parametrize("stages", scenario.PAIRS)
def test_two_engines_in_one_process_learn_side_by_side(outcome: Outcome, stages: tuple[ZeroStage, ZeroStage]) -> None:
    scenario.two_engines(outcome.folder, "torch", SoloGang(), stages)
    names = f"{stages[0]}{stages[1]}"
    expected = outcome.state(f"two-torch-1-{names}")
    assert "weight" in expected
    for size in (1, 2):
        assert_close(outcome.state(f"two-deepspeed-{size}-{names}"), expected)


def test_every_process_group_has_the_gangs_deadline(outcome: Outcome) -> None:
    assert set(outcome.facts(2, 0)["deadlines"]) == {scenario.DEADLINE_S}


def test_no_engine_imports_a_compiler(outcome: Outcome) -> None:
    assert not any(outcome.facts(size, 0)["compiler"] for size in (1, 2))


def test_nothing_was_compiled_and_the_only_noise_is_about_skipped_steps(outcome: Outcome) -> None:
    assert "built successfully" not in outcome.output
    assert all("Skipping step" in line for line in outcome.output.splitlines() if line)


def test_a_torch_engine_over_a_gang_averages_gradients() -> None:
    class Echo(SoloGang):
        """Stands for two ranks, of which the other one always has three times this one's gradient."""

        def mean(self, tensor: Tensor) -> Tensor:
            return 2 * tensor

    norms = []
    for gang in (SoloGang(), Echo()):
        engine = scenario.build("torch", PLAIN, gang)
        norms.append(scenario.train(engine, range(1), SoloGang())[0].grad_norm)
    assert norms[1] == pytest.approx(2 * norms[0])


def test_frozen_parameters_are_neither_trained_nor_saved() -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    frozen = scenario.network().frozen.weight
    scenario.train(engine, range(3), SoloGang())
    assert torch.equal(dict(engine.module.named_parameters())["frozen.weight"], frozen)
    assert not any("frozen" in name for name in {**engine.state_dict(), **engine.optimizer_state()})


def test_a_skipped_step_of_the_torch_engine_changes_nothing() -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    scenario.train(engine, range(2), SoloGang())
    weights, moments = engine.state_dict(), engine.optimizer_state()
    report = engine.step([lambda: scenario.loss_of(engine, 2, SoloGang()) * float("inf")], "dmd")
    assert (report.skipped, report.grad_norm) == (True, float("inf"))
    assert_equal(engine.state_dict(), weights)
    assert_equal(engine.optimizer_state(), moments)


def test_a_step_that_nobody_wants_changes_nothing_and_is_asked_about_after_its_last_part() -> None:
    engine, said = scenario.build("torch", PLAIN, SoloGang()), list[str]()
    scenario.train(engine, range(2), SoloGang())
    weights, moments = engine.state_dict(), engine.optimizer_state()

    def part(name: str) -> Tensor:
        said.append(name)
        return scenario.loss_of(engine, 2, SoloGang())

    def wanted() -> bool:
        said.append("wanted")
        return False

    report = engine.step([partial(part, "first"), partial(part, "second")], "dmd", wanted=wanted)
    assert said == ["first", "second", "wanted"]
    assert (report.idle, report.skipped) == (True, False)
    assert report.grad_norm > 0
    assert_equal(engine.state_dict(), weights)
    assert_equal(engine.optimizer_state(), moments)


def test_one_networks_step_leaves_no_gradient_in_another() -> None:
    first = build_engine(nn.Linear(2, 2), kind="torch", objectives={"a": 1e-3})
    second = build_engine(nn.Linear(2, 1), kind="torch", objectives={"b": 1e-3})
    first.step([lambda: second(first(torch.ones(1, 2))).sum()], "a")
    assert all(parameter.grad is None for parameter in second.module.parameters())


def test_the_state_is_a_copy() -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    for state in (engine.state_dict, engine.optimizer_state):
        before = state()
        for tensor in state().values():
            tensor.fill_(5)
        assert_equal(state(), before)


@pytest.mark.parametrize("kind", ["state_dict", "optimizer_state"])
def test_a_state_of_another_network_is_refused_and_changes_nothing(kind: str) -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    save, load = getattr(engine, kind), getattr(engine, f"load_{kind}")
    before = save()
    first = next(iter(before))
    other = {name: tensor + 1 for name, tensor in before.items()}
    with pytest.raises(CheckpointError, match="1 missing"):
        load({name: tensor for name, tensor in other.items() if name != first})
    with pytest.raises(CheckpointError, match="1 unknown"):
        load({**other, "stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="has shape"):
        load({**other, first: torch.zeros(99)})
    assert_equal(save(), before)


@pytest.mark.parametrize("variant", [("torch", 1), ("deepspeed", 0)])
def test_offload_without_partitions_is_refused(variant: tuple[Literal["torch", "deepspeed"], ZeroStage]) -> None:
    with pytest.raises(ValueError, match="offload_optimizer needs DeepSpeed"):
        scenario.build(variant[0], scenario.Variant(variant[1], offload=True), SoloGang())


def test_an_unknown_objective_is_refused() -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    with pytest.raises(ValueError, match="unknown objective 'gan'"):
        engine.step(scenario.parts_of(engine, 0, SoloGang()), "gan")


def test_a_step_without_any_part_is_refused() -> None:
    engine = scenario.build("torch", PLAIN, SoloGang())
    with pytest.raises(ValueError, match="at least one part"):
        engine.step([], "dmd")


def test_each_part_goes_forward_and_back_before_the_next() -> None:
    engine, events = scenario.build("torch", PLAIN, SoloGang()), []

    def part(number: int) -> Tensor:
        loss = scenario.loss_of(engine, number, SoloGang())
        events.append(("forward", number))
        loss.register_hook(lambda _: events.append(("backward", number)))
        return loss

    engine.step([partial(part, 0), partial(part, 3)], "dmd")
    assert events == [("forward", 0), ("backward", 0), ("forward", 3), ("backward", 3)]


@pytest.mark.parametrize("module", [nn.Linear(2, 2).requires_grad_(requires_grad=False), nn.Linear(2, 2).half()])
def test_a_network_that_cannot_be_trained_is_a_user_error(module: nn.Module) -> None:
    with pytest.raises(UserError, match="float32"):
        build_engine(module, kind="torch", objectives={"dmd": 1e-3})


def test_importing_the_engines_and_building_one_in_torch_imports_no_deepspeed() -> None:
    program = (
        "import sys; from torch import nn; from advdmd_ray.learner.engine import build_engine;"
        "build_engine(nn.Linear(1, 1), kind='torch', objectives={'dmd': 1e-3}); sys.exit('deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60).returncode == 0


# Each rank is a process, copied from one that has imported what they need; the first of each scene says how it ends.
_GANG = """
import json, os, signal, sys, time
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.learner.gang import TorchDistributedGang
import torch

def play(scene, timeout_s, rank, port):
    try:
        cpu = torch.device("cpu")
        gang = TorchDistributedGang(rank, 2, device=cpu, address="127.0.0.1", port=port, timeout_s=timeout_s)
        if rank == 1 and scene == "dead":
            os._exit(0)
        if rank == 1 and scene == "hung":
            time.sleep(60)
        gang.mean(torch.zeros(3))
    except (DeadlineError, WorkerLostError) as error:
        return f"{type(error).__name__} {error}"

started = []
for number, (scene, timeout_s, ranks, port) in enumerate(json.loads(sys.argv[1])):
    for rank in ranks:
        if not (copy := os.fork()):
            said = str(play(scene, timeout_s, rank, port))
            if rank == ranks[0]:
                os.write(1, f"{number} {said}\\n".encode())
            os._exit(0)  # see `leaving.leave`
        started.append((copy, rank == ranks[0]))
for copy, is_first in started:
    if is_first:
        os.waitpid(copy, 0)
for copy, is_first in started:
    if not is_first:
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)
"""


def test_waiting_for_a_missing_rank_ends_at_the_deadline_and_says_so() -> None:
    scenes = [  # of each, the first rank reports
        ("absent", 1, [0], "DeadlineError learner rank 0 of 2 waited"),
        ("absent", 1, [1], "DeadlineError learner rank 1 of 2 waited"),
        ("hung", 5, [0, 1], "DeadlineError learner rank 0 of 2 waited"),
        ("dead", 60, [0, 1], "WorkerLostError learner rank 0 of 2 lost another rank"),
    ]
    asked = [(scene, timeout_s, ranks, free_port()) for scene, timeout_s, ranks, _ in scenes]
    done = subprocess.run(
        [sys.executable, "-c", _GANG, json.dumps(asked)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=100,
    )
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line[:2] in {"0 ", "1 ", "2 ", "3 "})
    for number, (scene, _, _, expected) in enumerate(scenes):
        assert said[str(number)].startswith(expected), (scene, said)


def test_a_rank_that_leaves_has_said_everything_and_does_not_go_through_the_end_of_its_interpreter() -> None:
    program = "import atexit, os; from leaving import leave; atexit.register(os.abort); print('done'); leave()"
    left = subprocess.run(
        [sys.executable, "-c", program], cwd=SCRIPT.parent, capture_output=True, text=True, check=False, timeout=60
    )
    assert (left.returncode, left.stdout, left.stderr) == (0, "done\n", "")


def test_a_gang_of_one_gives_a_copy_of_its_own_tensor() -> None:
    tensor = torch.ones(2)
    mean = SoloGang().mean(tensor)
    mean.fill_(3)
    assert torch.equal(tensor, torch.ones(2))


def test_ranks_get_the_mean_of_theirs(outcome: Outcome) -> None:
    assert [outcome.facts(2, rank)["mean"] for rank in range(2)] == [[1.0, 1.5], [1.0, 1.5]]
