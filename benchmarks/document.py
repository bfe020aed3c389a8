"""What a benchmark leaves: one JSON document, and the same as a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from advdmd_ray.provenance import git_commit
from benchmarks.card import TERA, Hardware
from benchmarks.flops import actions_of_update, forward_flops, rollout_flops, update_flops
from benchmarks.learning import LearnerTimings
from benchmarks.models import FULL
from benchmarks.needs import GIB
from benchmarks.parts import Settings, Subject
from benchmarks.rollouts import OURS
from benchmarks.timing import Timing
from benchmarks.transfers import LIMIT

GIGA = 10**9
SCHEMA = 3
"""Counted up whenever a field changes its name or its meaning."""
REHEARSAL = "no figure of speed: tiny networks or no GPU show that the benchmark runs, nothing else"
CLAIM = "full-size networks with random weights on one GPU; text encoders and image codec are not part of it"
NOT_COUNTED = "model FLOPs: activations made again, discriminator heads and optimizers are not counted"
LEFT_OUT, NOT_MEASURED = "left_out", "not_measured"
CONTESTS = ("rollout", "transfers", "publishing")
"""Parts in which rivals take part."""


def header(settings: Settings, machine: Hardware, *, full: bool) -> dict[str, Any]:
    """Everything but the models.

    Args:
        settings: What was asked for.
        machine: Where it ran.
        full: Whether the networks have their true sizes.
    """
    claim = full and machine.is_gpu
    return {
        "schema": SCHEMA,
        "gpu_figure": claim,
        "note": CLAIM if claim else REHEARSAL,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "hardware": asdict(machine) | {"versions": dict(machine.versions)},
        "settings": {"engine": settings.engine, "warm_up": settings.warm_up, "repeats": settings.repeats},
        "counting": NOT_COUNTED,
        "models": {},
    }


def subject_facts(subject: Subject) -> dict[str, Any]:
    """What is measured of one model."""
    config, model = subject.config, subject.model
    return {
        "family": model.family,
        "recipe": model.recipe,
        "full_size": model in FULL,
        "settings": {
            "learns": subject.learns,
            "overrides": list(model.overrides),
            "pixels": list(subject.info.pixels),
            "latent": list(subject.shapes.largest.latent_shape),
            "prompts": "random embeddings",
            "text_tokens": subject.text_tokens,
            "sigmas": subject.shapes.largest.sigmas.tolist(),
            "group_size": subject.group_size,
            "groups": config.rollout.groups_per_cycle,
            "rows": config.dmd.batch_size,
            "rl_actions": actions_of_update(subject),
            "guidance": config.model.guidance,
            "lora_rank": config.lora.rank,
            "merged_on_actors": config.merges_adapters,
            "discriminator_backbone": config.discriminator.backbone,
            "gradient_checkpointing": config.learner.gradient_checkpointing,
        },
        "transformer": {
            "weights": subject.sizes.transformer,
            "adapters": subject.sizes.adapters,
            "forward_flops": forward_flops(subject).forward,
        },
    }


def figures(timing: Timing, *, images: int, flops: int, peak_tflops: float | None) -> dict[str, Any]:
    """One row.

    Args:
        timing: The repeats.
        images: Images of one repeat.
        flops: Model FLOPs of one repeat; 0 if nobody counted them.
        peak_tflops: Of the device; None: unknown, and no utilisation is given.
    """
    per_second = flops / timing.median
    counted = {"flops": flops, "tflops_per_s": per_second / TERA} if flops else {"flops": None, "tflops_per_s": None}
    return {
        **_seconds(timing),
        "images": images,
        "images_per_s": images / timing.median,
        **counted,
        "mfu": per_second / (peak_tflops * TERA) if flops and peak_tflops else None,
    }


def _seconds(timing: Timing) -> dict[str, Any]:
    return {
        "median_s": timing.median,
        "least_s": min(timing.seconds),
        "most_s": max(timing.seconds),
        "seconds": list(timing.seconds),
        "peak_bytes": timing.peak_bytes,
    }


def rollout_figures(subject: Subject, timings: Mapping[str, Timing], peak_tflops: float | None) -> dict[str, Any]:
    """A group of images in K steps each, ours and the script's, by name; a script without adapters computes no more."""
    flops = {name: subject.group_size * subject.config.steps * forward_flops(subject).forward for name in timings}
    flops[OURS] = rollout_flops(subject)
    ours = timings[OURS].median
    return {
        name: figures(timing, images=subject.group_size, flops=flops[name], peak_tflops=peak_tflops)
        | {"of_ours": timing.median / ours}
        for name, timing in timings.items()
    }


def transfer_figures(timings: Mapping[str, Timing], moved: int) -> dict[str, Any]:
    """A group down and up again, by contestant.

    Args:
        timings: Of each.
        moved: Bytes, those of both ways.
    """
    limit = timings[LIMIT].median
    return {name: _copied(timings, name, moved) | {"of_limit": limit / timings[name].median} for name in timings}


def publishing_figures(timings: Mapping[str, Timing], published: int, tensors: int) -> dict[str, Any]:
    """Weights from the learner's device to a rollout actor's, by contestant.

    Args:
        timings: Of each.
        published: Bytes, once.
        tensors: How many.
    """
    return {name: _copied(timings, name, published) | {"tensors": tensors} for name in timings}


def _copied(timings: Mapping[str, Timing], name: str, size: int) -> dict[str, Any]:
    seconds = timings[name].median
    rates = {"bytes": size, "gb_per_s": size / seconds / GIGA, "of_ours": seconds / timings[OURS].median}
    return _seconds(timings[name]) | rates


def learner_figures(subject: Subject, measured: LearnerTimings, peak_tflops: float | None) -> dict[str, Any]:
    """Every update and the whole cycle."""
    config, counted = subject.config, update_flops(subject)
    images = {
        "fake_score": config.fake_score.batch_size,
        "discriminator": 2 * config.discriminator.batch_size,
        "dmd": config.dmd.batch_size,
        "rl": actions_of_update(subject),
    }
    cycle = config.rollout.groups_per_cycle * subject.group_size
    return {
        "trainable": dict(measured.trainable),
        "skipped_updates": measured.skipped,
        "ratio_deviation": measured.ratio_deviation,
        "ratio_tolerance": measured.ratio_tolerance,
        "updates": {
            name: figures(timing, images=images[name], flops=counted[name], peak_tflops=peak_tflops)
            for name, timing in measured.updates.items()
        },
        "cycle": figures(measured.cycle, images=cycle, flops=0, peak_tflops=None),
    }


def table(document: Mapping[str, Any]) -> str:
    """The figures as lines of text."""
    heads = ("", "median s", "least..most s", "x ours", "GB/s", "images/s", "TFLOP/s", "MFU", "peak GiB")
    rows = [heads]
    for name, model in document["models"].items():
        rows += [_cells(f"{name}, {what}", row) for what, row in _rows(model)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
    where, versions = document["hardware"], document["hardware"]["versions"]
    first = f"{where['device']}, torch {versions['torch']}, commit {document['commit']}"
    return "\n".join([first, document["note"], "", *lines, *_remarks(document), ""])


def _rows(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What was timed of one model, by what it is."""
    for part in CONTESTS:
        for name, row in model[part].items():
            if isinstance(row, Mapping):
                yield f"{part}, {name}", row
    learner = model["learner"]
    for name, row in learner.get("updates", {}).items():
        yield f"learner, {name}", row
    if "cycle" in learner:
        yield "learner, cycle", learner["cycle"]


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    def said(key: str, form: str, unit: float = 1.0) -> str:
        return "-" if row.get(key) is None else format(row[key] / unit, form)

    spread = f"{row['least_s']:.4g}..{row['most_s']:.4g}"
    rates = (said("images_per_s", ".3g"), said("tflops_per_s", ".3g"), said("mfu", ".1%"))
    compared = (said("of_ours", ".3f"), said("gb_per_s", ".3g"))
    return (name, said("median_s", ".4g"), spread, *compared, *rates, said("peak_bytes", ".2f", GIB))


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    """What the rows do not say: what was left out or not measured, the ratio, why there is no utilisation."""
    for name, model in document["models"].items():
        for part in model["needs_bytes"]:
            for key in (LEFT_OUT, NOT_MEASURED):
                if key in model[part]:
                    yield f"{name}, {part}: {key.replace('_', ' ')}: {model[part][key]}"
        if "cycle" in (learner := model["learner"]):
            yield (
                f"{name}, learner: importance ratio off 1 by {learner['ratio_deviation']:.1e}, a run allows "
                f"{learner['ratio_tolerance']:.0e}; {learner['skipped_updates']} updates skipped"
            )
    if document["hardware"]["peak_tflops"] is None:
        yield f"MFU: {document['hardware']['peak_source']}"
