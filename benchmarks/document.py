"""What a benchmark leaves: one JSON document, and the same as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.provenance import git_commit
from benchmarks.card import TERA, Hardware
from benchmarks.flops import forward_flops, update_flops
from benchmarks.learning import LearnerTimings
from benchmarks.parts import Settings, config_of, sigmas_of
from benchmarks.sizes import FULL
from benchmarks.timing import Timing

SCHEMA = 2
"""Counted up whenever a field changes its name or its meaning."""
GIB = 2**30
REHEARSAL = "no figure of speed: tiny networks or no GPU show that the benchmark runs, nothing else"
CLAIM = "full-size networks with random weights on one GPU; text encoders and image codec are not part of it"
NOT_COUNTED = "model FLOPs: activations made again, discriminator heads and optimizers are not counted"


def header(settings: Settings, machine: Hardware, weights: int) -> dict[str, Any]:
    """Everything but the figures.

    Args:
        settings: What was asked for.
        machine: Where it ran.
        weights: Learnt weights of the transformer.
    """
    size, config = settings.size, config_of(settings, settings.learns[0])
    claim = size is FULL and machine.is_gpu
    return {
        "schema": SCHEMA,
        "gpu_figure": claim,
        "note": CLAIM if claim else REHEARSAL,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "hardware": asdict(machine) | {"versions": dict(machine.versions)},
        "settings": {
            "size": size.name,
            "pixels": size.pixels,
            "latent": list(size.latent),
            "prompts": "random embeddings",
            "text_tokens": size.text_tokens,
            "steps": config.steps,
            "sigmas": sigmas_of(config).tolist(),
            "group_size": size.group_size,
            "rows": settings.rows,
            "rl_rows": size.group_rows * (config.steps - 1),
            "guidance": config.model.guidance,
            "gan_weight": config.dmd.gan_weight,
            "mismatched_text": config.discriminator.mismatched_text,
            "lora_rank": size.rank,
            "engine": settings.engine,
            "gradient_checkpointing": settings.checkpointing,
            "warm_up": settings.warm_up,
            "repeats": settings.repeats,
        },
        "transformer": {"weights": weights, "forward_flops": forward_flops(size).forward, "counting": NOT_COUNTED},
        "rollout": {},
        "learner": {},
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
        "median_s": timing.median,
        "least_s": min(timing.seconds),
        "most_s": max(timing.seconds),
        "seconds": list(timing.seconds),
        "images": images,
        "images_per_s": images / timing.median,
        **counted,
        "mfu": per_second / (peak_tflops * TERA) if flops and peak_tflops else None,
        "peak_bytes": timing.peak_bytes,
    }


def rollout_figures(settings: Settings, timing: Timing, peak_tflops: float | None, rank: int) -> dict[str, Any]:
    """A group of images in K steps each.

    Args:
        settings: What was asked for.
        timing: Of a group.
        peak_tflops: See `figures`.
        rank: Of the student's adapters; 0: none.
    """
    steps = config_of(settings, settings.learns[0]).steps
    images = settings.size.group_size
    flops = images * steps * forward_flops(settings.size, rank=rank).forward
    return figures(timing, images=images, flops=flops, peak_tflops=peak_tflops)


def learner_figures(
    settings: Settings, config: Config, measured: LearnerTimings, peak_tflops: float | None
) -> dict[str, Any]:
    """Every update and the whole cycle."""
    counted = update_flops(config, settings.size)
    images = {
        "fake_score": config.fake_score.batch_size,
        "discriminator": 2 * config.discriminator.batch_size,
        "dmd": config.dmd.batch_size,
        "rl": config.rl_rows * (config.steps - 1),
    }
    return {
        "trainable": dict(measured.trainable),
        "discriminator_backbone": config.discriminator.backbone,
        "skipped_updates": measured.skipped,
        "ratio_deviation": measured.ratio_deviation,
        "ratio_tolerance": measured.ratio_tolerance,
        "updates": {
            name: figures(timing, images=images[name], flops=counted[name], peak_tflops=peak_tflops)
            for name, timing in measured.updates.items()
        },
        "cycle": figures(measured.cycle, images=config.rollout.group_size, flops=0, peak_tflops=None),
    }


def table(document: Mapping[str, Any]) -> str:
    """The figures as lines of text."""
    heads = ("", "median s", "least..most s", "images/s", "TFLOP/s", "MFU", "peak GiB")
    rows = [heads, *_rows(document)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
    where, versions = document["hardware"], document["hardware"]["versions"]
    first = f"{document['settings']['size']}, {where['device']}, torch {versions['torch']}, commit"
    return "\n".join([f"{first} {document['commit']}", document["note"], "", *lines, *_remarks(document), ""])


def _rows(document: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    named = {f"rollout, {name}": row for name, row in document["rollout"].items()}
    for learns, part in document["learner"].items():
        named |= {f"learner, {learns}: {name}": row for name, row in part.get("updates", {}).items()}
        named |= {f"learner, {learns}: cycle": part["cycle"]} if "cycle" in part else {}
    return [_cells(name, row) for name, row in named.items() if "median_s" in row]


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    def said(key: str, form: str, unit: float = 1.0) -> str:
        return "-" if row[key] is None else format(row[key] / unit, form)

    spread = f"{row['least_s']:.4f}..{row['most_s']:.4f}"
    rates = (said("images_per_s", ".3g"), said("tflops_per_s", ".3g"), said("mfu", ".1%"))
    return (name, said("median_s", ".4f"), spread, *rates, said("peak_bytes", ".2f", GIB))


def _remarks(document: Mapping[str, Any]) -> list[str]:
    """What the rows do not say: what was not measured, the ratio to the plain loop, why there is no utilisation."""
    lines = [
        f"{part}, {name}: not measured: {row['not_measured']}"
        for part in ("rollout", "learner")
        for name, row in document[part].items()
        if "not_measured" in row
    ]
    lines += [
        f"rollout, {name}: {row['of_plain']:.3f} of the plain loop's images per second"
        for name, row in document["rollout"].items()
        if "of_plain" in row
    ]
    lines += [
        f"learner, {name}: importance ratio off 1 by {part['ratio_deviation']:.1e}, a run allows "
        f"{part['ratio_tolerance']:.0e}; {part['skipped_updates']} updates skipped"
        for name, part in document["learner"].items()
        if "cycle" in part
    ]
    if document["hardware"]["peak_tflops"] is None:
        lines.append(f"MFU: {document['hardware']['peak_source']}")
    return lines
