"""The benchmark runs from end to end without a GPU, and claims nothing that was not measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.networks import Networks
from bench_subjects import CPU, FULL_NAMES, MODELS, QUICK, TINY_NAMES, beside_us, subject_of
from benchmarks import learning, measuring, rollouts, transfers
from benchmarks.card import PEAKS, Hardware, peak_of
from benchmarks.command import main
from benchmarks.document import figures, table
from benchmarks.flops import rollout_flops, update_flops
from benchmarks.learning import TimedLearner
from benchmarks.measuring import measure, measure_model
from benchmarks.needs import GIB, needs
from benchmarks.parts import random_table, random_teacher
from benchmarks.plain import plain_loop
from benchmarks.publishing import PUT, SAVED
from benchmarks.rollouts import OURS, PLAIN, script_of
from benchmarks.timing import Stopwatch, Timing, timed_in_turns
from benchmarks.transfers import LIMIT, PINNED
from small_parts import RESOLUTIONS, Judge, Mixer, config, infos_of, learner, real_images, scored_groups
from small_parts import table as small_table

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--size", "tiny", "--device", "cpu"]
UPDATES = {"fake_score", "discriminator", "dmd", "rl"}
# torch says once a process that a normalisation of mixed types has a speed of its own
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What is measured of one family, a whole network and adapters, as it is written."""
    measured = measure([MODELS["tiny_sd3"], MODELS["tiny_sd3_lora"]], replace(QUICK, repeats=2), beside_us)
    return json.loads(json.dumps(measured, allow_nan=False))


@pytest.mark.slow
@pytest.mark.wide
def test_the_command_leaves_a_document_and_its_table_over_ray_with_the_engine_of_runs(tmp_path: Path) -> None:
    out = tmp_path / "new" / "tiny.json"
    line = [sys.executable, "-m", "benchmarks", *ARGUMENTS, "--family", "flux", "--out", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert table(written) in done.stdout
    assert list(written["models"]) == ["tiny_flux_lora"]
    assert written["settings"] == {"engine": "deepspeed", "warm_up": 2, "repeats": 5}
    model = written["models"]["tiny_flux_lora"]
    assert len(model["publishing"][OURS]["seconds"]) == 5
    assert set(model["learner"]["updates"]) == UPDATES


def rows_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything with images a second that was timed of a model."""
    learner = model["learner"]
    return [*model["rollout"].values(), *learner["updates"].values(), learner["cycle"]]


def test_a_document_says_what_was_measured_where_and_of_which_commit(document: dict[str, Any]) -> None:
    assert list(document["models"]) == ["tiny_sd3", "tiny_sd3_lora"]
    assert document["settings"]["engine"] == "torch"
    assert document["models"]["tiny_sd3_lora"]["recipe"] == "sd35_medium_lora"
    assert document["models"]["tiny_sd3_lora"]["settings"]["text_tokens"] == 4 + 8
    hardware = document["hardware"]
    assert hardware["device"].startswith("CPU")
    assert hardware["memory_bytes"] > 2**30
    assert hardware["versions"]["torch"] == torch.__version__
    if (ROOT / ".git").exists():
        assert len(document["commit"].removesuffix("-dirty")) == 40


def test_a_cpu_claims_neither_speed_nor_utilisation_nor_memory(document: dict[str, Any]) -> None:
    assert not document["gpu_figure"]
    assert document["note"].startswith("no figure of speed")
    assert document["hardware"]["peak_tflops"] is None
    models = document["models"].values()
    rows = [row for model in models for row in rows_of(model)]
    assert len(rows) == 2 * (2 + 5)
    assert {row["mfu"] for row in rows} == {None}
    copies = [row for model in models for part in ("transfers", "publishing") for row in model[part].values()]
    assert {row["peak_bytes"] for row in (*rows, *copies)} == {None}
    assert "no utilisation is claimed" in table(document)


def test_every_figure_has_its_repeats_its_spread_and_its_rate(document: dict[str, Any], tmp_path: Path) -> None:
    for name, model in document["models"].items():
        subject = subject_of(name, tmp_path)
        assert set(model["rollout"]) == {OURS, PLAIN}
        ours, plain = model["rollout"].values()
        assert plain["of_ours"] == pytest.approx(plain["median_s"] / ours["median_s"])
        assert ours["flops"] == rollout_flops(subject) == plain["flops"]  # merged adapters cost nothing
        assert ours["images"] == plain["images"] == 4
        assert model["transformer"]["forward_flops"] * 4 * 4 == plain["flops"]
        part = model["learner"]
        assert set(part["updates"]) == UPDATES
        assert part["skipped_updates"] == 0
        assert part["ratio_deviation"] <= part["ratio_tolerance"]
        assert {what: row["flops"] for what, row in part["updates"].items()} == update_flops(subject)
        for what, row in part["updates"].items():
            assert len(row["seconds"]) == 2, what
            assert row["tflops_per_s"] == pytest.approx(row["flops"] / row["median_s"] / 1e12)
        for row in rows_of(model):
            assert 0 < row["least_s"] <= row["median_s"] <= row["most_s"]
            assert row["images_per_s"] == pytest.approx(row["images"] / row["median_s"])


def test_copies_are_rated_by_the_bytes_that_travel(document: dict[str, Any]) -> None:
    for model in document["models"].values():
        for name, row in model["transfers"].items():
            # Down and up: 5 states and 3 means of 4 trajectories, 4 x 8 x 8 float32 numbers each.
            assert row["bytes"] == 2 * 4 * (5 + 3) * 4 * 8 * 8 * 4
            assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["median_s"] / 1e9)
            assert row["of_limit"] == pytest.approx(model["transfers"][LIMIT]["median_s"] / row["median_s"]), name
        for row in model["publishing"].values():
            assert row["bytes"] == 4 * model["learner"]["trainable"]["student"]
            assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["median_s"] / 1e9)
    assert document["models"]["tiny_sd3_lora"]["publishing"][OURS]["tensors"] == 6 * 4 * 2


def test_adapters_are_what_learns_with_lora_and_whole_networks_without(document: dict[str, Any]) -> None:
    whole, adapters = document["models"]["tiny_sd3"], document["models"]["tiny_sd3_lora"]
    # Of the weights in its file the table of positions does not learn: 16 x 16 places of 32 channels.
    assert whole["learner"]["trainable"]["student"] == whole["transformer"]["weights"] - 16 * 16 * 32
    # 6 attentions, each with 4 matrices that have factors A and B of rank 4 and width 32
    assert adapters["learner"]["trainable"]["student"] == 6 * 4 * 2 * 4 * 32 == adapters["transformer"]["adapters"]
    assert adapters["settings"]["discriminator_backbone"] == "own"
    assert adapters["settings"]["merged_on_actors"]


@pytest.mark.parametrize("name", ["tiny_qwen_image_lora", pytest.param("tiny_z_image_lora", marks=pytest.mark.wide)])
def test_every_family_goes_through_rollouts_and_learner(name: str) -> None:
    document = measure([MODELS[name]], QUICK, beside_us)
    model = document["models"][name]
    assert not document["gpu_figure"]
    assert set(model["rollout"]) == {OURS, PLAIN}
    assert set(model["learner"]["updates"]) == UPDATES
    assert model["learner"]["ratio_deviation"] <= model["learner"]["ratio_tolerance"]
    assert set(model["transfers"]) == {OURS, PINNED, transfers.PLAIN, LIMIT}
    assert set(model["publishing"]) == {OURS, SAVED, PUT}
    lines = table(document)
    for what in ("learner, cycle", f"rollout, {PLAIN}", f"transfers, {LIMIT}", f"publishing, {SAVED}"):
        assert f"{name}, {what}" in lines


@pytest.mark.parametrize("name", TINY_NAMES)
def test_the_plain_loop_of_a_family_draws_what_our_sampler_draws_from_the_same_noise(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(name, tmp_path)
    teacher, table, shapes = random_teacher(subject), random_table(subject), subject.shapes
    script, seeds = script_of(subject, teacher, table, 3), [1, 2, 3]
    x = group_noise(shapes.largest.latent_shape, seeds, "initial")
    steps = range(len(shapes.largest.sigmas) - 2)
    fresh = iter([script.packed(group_noise(shapes.largest.latent_shape, seeds, "step", step)) for step in steps])
    monkeypatch.setattr(torch, "randn_like", lambda _: next(fresh))
    plain = plain_loop(script, x, shapes.largest.sigmas.tolist())
    ours = sample(teacher, table.of(0, 3), Kernel.renoise(), shapes.largest.sigmas, x, seeds=seeds)
    assert next(fresh, None) is None
    assert torch.equal(script.unpacked(script.packed(x)), x)
    # One is bfloat16 throughout, the other by autocast.
    assert (plain - ours).abs().mean() < 0.02 * ours.abs().mean()


def test_the_networks_of_a_rollout_share_the_weights_of_the_teacher(tmp_path: Path) -> None:
    subject = subject_of("tiny_flux_lora", tmp_path)
    teacher = random_teacher(subject)
    script = script_of(subject, teacher, random_table(subject), 2)
    assert script.transformer is teacher.transformer
    assert teacher.transformer.dtype == torch.bfloat16
    places = {weight.data_ptr() for weight in teacher.parameters()}
    student = rollouts.acting_student(subject, teacher)
    assert {weight.data_ptr() for name, weight in student.named_parameters() if ".lora_" not in name} <= places


def test_without_a_cuda_device_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing was measured\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "huge"], "invalid choice: 'huge'"),
        (["--family", "sdxl"], "invalid choice: 'sdxl'"),
        (["--device", "cpu"], "give --size tiny, or --device cuda"),
        ([*ARGUMENTS, "--repeats", "4"], "--repeats must be at least 5, got 4"),
        ([*ARGUMENTS, "--out", __file__], "exists; name another file"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_full_size_needs_what_arithmetic_by_hand_says(tmp_path: Path) -> None:
    subject = subject_of("flux_dev_lora", tmp_path)
    base, adapters = 11.9e9 * 2, 105e6 * 4
    # 19 joint blocks have 8 maps of attention, 38 single ones 3, all with an adapter and so merged beside themselves.
    merged = (19 * 8 + 38 * 3) * 3072**2 * 2
    needed = needs(subject)
    row = 4609 * 3072  # numbers of a token's width in the activations of one image
    assert needed["rollout"] == pytest.approx(base + adapters + merged + row * (4 * 4 + 12 * 2), rel=0.01)
    # Weights, gradients and update copies of three roles' adapters, and four sets of two moments.
    assert base + 17 * adapters < needed["learner"] < base + 17 * adapters + 12 * GIB
    # A network in each of two processes, and a copy of the adapters.
    assert needed["publishing"] == pytest.approx(2 * (base + adapters + merged) + adapters, rel=0.01)
    assert needed["transfers"] == pytest.approx(base + adapters + merged + 4 * 16 * (5 + 3) * 2**20, rel=0.01)


@pytest.mark.parametrize("name", FULL_NAMES)
def test_what_a_card_cannot_hold_is_named_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a network was made")

    monkeypatch.setattr(measuring, "random_teacher", refused)
    card = Hardware("a small card", True, 3 * GIB, None, None, None, "", {})
    model = measure_model(subject_of(name, tmp_path), card)
    for part, need in model["needs_bytes"].items():
        assert model[part]["left_out"] == f"it needs {need / GIB:.1f} GiB, the card has 3.0"
        assert need > 3 * GIB


def test_a_card_too_small_for_the_learner_still_makes_rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of("tiny_flux_lora", tmp_path)
    needed = needs(subject)
    room = needed["rollout"]
    assert room < min(needed["learner"], needed["publishing"])
    monkeypatch.setattr(learning, "time_learner", None)
    model = measure_model(subject, Hardware("a card", True, room, None, None, None, "", {}))
    assert model["rollout"][OURS]["images_per_s"] > 0
    assert set(model["learner"]) == set(model["publishing"]) == {"left_out"}


def test_what_does_not_fit_into_memory_after_all_is_said_to_be_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a capacity of ...")

    monkeypatch.setattr(learning, "time_learner", too_large)
    document = measure([MODELS["tiny_flux_lora"]], QUICK, beside_us)
    model = document["models"]["tiny_flux_lora"]
    assert model["learner"] == {"not_measured": "CUDA out of memory. Tried to allocate 9.00 GiB"}
    assert model["rollout"][OURS]["images_per_s"] > 0
    assert "tiny_flux_lora, learner: not measured: CUDA out of memory" in table(document)


def test_figures_are_claimed_of_full_sizes_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Hardware("NVIDIA H200", True, 2**37, None, None, 989.4, "its data sheet", {"torch": "2"})
    monkeypatch.setattr(measuring, "hardware", lambda _: gpu)
    monkeypatch.setattr(measuring, "measure_model", lambda *_: {})
    assert measure([MODELS["flux_dev_lora"]], QUICK)["gpu_figure"]
    assert not measure([MODELS["tiny_flux_lora"]], QUICK)["gpu_figure"]


def test_utilisation_is_the_share_of_the_peak_and_nothing_for_an_unknown_card() -> None:
    timing = Timing((4.0, 1.0, 2.0), peak_bytes=7)
    row = figures(timing, images=8, flops=10**14, peak_tflops=100.0)
    assert row["median_s"] == 2.0
    assert row["mfu"] == pytest.approx(0.5)
    assert row["images_per_s"] == 4.0
    assert figures(timing, images=8, flops=10**14, peak_tflops=None)["mfu"] is None
    assert peak_of("NVIDIA H100 80GB HBM3")[0] == 989.4
    unknown, why = peak_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    assert unknown is None
    assert "no utilisation is claimed" in why
    assert all(source for _, source in PEAKS.values())


def test_a_gpu_has_done_its_work_whenever_the_stopwatch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    peaks = iter([42, 7, 40, 9])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: events.append("waited"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: events.append("forgot"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: next(peaks))
    works = {name: lambda name=name: events.append(name) for name in ("ours", "rival")}
    timings = timed_in_turns(works, Stopwatch(torch.device("cuda")), warm_up=1, repeats=2)
    one_round = [event for name in works for event in ("forgot", "waited", name, "waited")]
    assert events == ["ours", "rival", *one_round * 2]
    assert {name: timing.peak_bytes for name, timing in timings.items()} == {"ours": 42, "rival": 9}
    assert all(len(timing.seconds) == 2 for timing in timings.values())


def test_a_timed_learner_learns_what_the_learner_learns_and_times_every_update() -> None:
    settings = config(policy_gradient={"minibatches": 2}, cadence={"fake_score_updates": 3})
    student, critic = Mixer(1), Judge(2)
    groups = scored_groups(student, critic)
    plainly = learner(settings, student=Mixer(1), critic=Judge(2))
    watched = TimedLearner(
        Stopwatch(CPU),
        settings,
        SoloGang(),
        Networks(Mixer(1), student, Mixer(20), critic),
        small_table(),
        real_images(),
        kernel=Kernel.renoise(),
        resolutions=RESOLUTIONS,
    )
    for _ in range(2):
        plainly.cycle(groups, infos_of(groups))
        watched.cycle(groups, infos_of(groups))
    for name, weight in plainly.ema().items():
        assert torch.equal(watched.ema()[name], weight)
    counts = {name: len(timing.seconds) for name, timing in watched.timings().items()}
    assert counts == {"fake_score": 6, "discriminator": 2, "rl": 4, "dmd": 2}
    watched.forget()
    assert watched.timings() == {}
