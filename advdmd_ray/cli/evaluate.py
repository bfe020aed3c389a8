"""`advdmd evaluate`: judges a teacher and a student, or draws and collects a benchmark."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdmd_ray.cli.arguments import (
    COUNT,
    DONE,
    GUIDANCE,
    PATH,
    PIXELS,
    SEED,
    STEPS,
    Command,
    add_config,
    add_precision,
    number,
    write_out,
)
from advdmd_ray.config import Config, read_config
from advdmd_ray.console import warn
from advdmd_ray.errors import UserError
from advdmd_ray.files import disk_told
from advdmd_ray.reading import shown
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.outputs import check_file, check_writable
from advdmd_ray.runtime.authentication import expect_token

if TYPE_CHECKING:
    from rich.table import Table

    from advdmd_ray.runs.judgement import Drawn, Piece

SEVERAL = 2
NAMED = 5
"""Files that a message names."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd evaluate`."""
    add_config(command, required=False)
    judge = command.add_argument_group("judge", "the teacher at 40, 8, 4 and 2 steps, and a student; needs --config")
    judge.add_argument("--student", type=PATH, metavar="FOLDER", help="pipeline folder of a student")
    workers = command.add_argument_group(
        "workers",
        "Ray actors that draw the images: one for each GPU, on the cluster of ray.address or RAY_ADDRESS, or here if "
        "there are several. Without either, and with --actors 1, the judge's are drawn in this process",
    )
    workers.add_argument("--actors", type=COUNT, metavar="N", help="how many (default: one for each GPU, or one)")
    workers.add_argument(
        "--gpus-each", type=number(0, 16), metavar="G", help="GPUs of each (default: 1 where there is one, or 0)"
    )
    command.add_argument(
        "--out",
        type=PATH,
        metavar="PATH",
        help="where the table, or the benchmark's images go (judge: judge.json in the run folder)",
    )
    suite = command.add_argument_group("benchmark", "images as the official scorer reads them; what is there stays")
    suite.add_argument("--suite", choices=["geneval", "dpg"], help="GenEval or DPG-Bench")
    suite.add_argument("--metadata", type=PATH, metavar="JSONL", help="geneval: evaluation_metadata.jsonl")
    suite.add_argument("--prompts", type=PATH, metavar="DIR", help="dpg: folder of NAME.txt prompts")
    suite.add_argument(
        "--pipeline", type=PATH, metavar="FOLDER", help="diffusers folder of a teacher or student, or builtin:NAME"
    )
    suite.add_argument("--steps", type=STEPS, help="uniform levels (default: the folder's, or 40)")
    suite.add_argument(
        "--guidance", type=GUIDANCE, help="guidance scale, 1 to 20 (default: the folder's, or 1 for none)"
    )
    suite.add_argument("--images", type=COUNT, default=4, help="geneval: images per prompt (default 4)")
    suite.add_argument("--size", type=PIXELS, nargs=2, metavar=("H", "W"), help="pixels (default: the folder's)")
    add_precision(suite, "of the networks; auto: bfloat16 on GPUs, float32 on CPUs")
    suite.add_argument("--seed", type=SEED, default=0, help="names the seed of every image (default 0)")
    command.add_argument(
        "--collect", nargs="+", type=PATH, metavar="RESULTS", help="tabulate what official scorers wrote, side by side"
    )


def run_command(args: argparse.Namespace) -> int:
    """Judges, draws a benchmark, or tabulates what scorers wrote."""
    from advdmd_ray.models.folder import inspect_pipeline

    _check_one_task(args)
    if args.collect is not None:
        return _collect(args)
    if args.suite is not None:
        return _suite(args)
    if args.config is None:
        raise UserError("evaluate needs --config to judge, --suite to draw a benchmark, or --collect for a table")
    config = read_config(args.config, args.overrides)
    out = Path(args.out) if args.out else RunFolder(config.folder).judge
    preflight.check_model(config)
    check_file(out, "--out")
    if args.student is not None:
        preflight.check_max_sequence_length(config, inspect_pipeline(args.student))
    preflight.check_scorers(config)

    from rich.console import Console

    from advdmd_ray.runs.verdict import facts_of, verdict_of

    verdict = facts_of(verdict_of(config, _drawn(config, args)))
    Console().print(judge_table(verdict))
    text = json.dumps(verdict, indent=2) + "\n"
    try:
        write_out(out, text)
    except UserError:
        sys.stdout.write(text)  # what took an hour is not lost with a disk that is full by now
        raise
    sys.stdout.write(f"{out}\n")
    return DONE


def _check_one_task(args: argparse.Namespace) -> None:
    """Options of two tasks, of which one would be passed over, are refused.

    Raises:
        UserError: naming the first that does not belong to the task.
    """
    judge, suite = ("config", "student"), ("suite", "metadata", "prompts", "pipeline", "steps", "guidance", "size")
    if args.collect is not None:
        task, foreign = "--collect", (*judge, *suite, "actors", "gpus_each")
    elif args.suite is not None:
        task, foreign = "--suite", judge
    else:
        task, foreign = "a judgement, which --config asks for,", suite
    given = [f"--{name.replace('_', '-')}" for name in foreign if getattr(args, name) is not None]
    if (args.collect is not None or args.suite is not None) and args.overrides:
        given.append(args.overrides[0])
    if given:
        raise UserError(f"{given[0]}: {task} takes no such thing; give one task at a time")


def _drawn(config: Config, args: argparse.Namespace) -> "Mapping[Piece, Drawn]":
    """What the judge is to see, drawn in this process or by workers."""
    from advdmd_ray.runs.needs.memory import ray_address
    from advdmd_ray.runs.parts.networks import gpus_here
    from advdmd_ray.runs.verdict import draw_here
    from advdmd_ray.runtime.counting import judge_progress

    student, address = None if args.student is None else Path(args.student), ray_address(config)
    alone = address is None and gpus_here() < SEVERAL if args.actors is None else args.actors < SEVERAL
    if alone and args.gpus_each is None:
        with judge_progress() as progress:
            return draw_here(config, student, progress)
    expect_token(address)
    from advdmd_ray.runtime.evaluating import drawn_on_ray

    return drawn_on_ray(config, student, actors=args.actors, gpus_each=args.gpus_each)


def _suite(args: argparse.Namespace) -> int:
    wanted = {"geneval": "metadata", "dpg": "prompts"}[args.suite]
    for name in (wanted, "pipeline", "out"):
        if getattr(args, name) is None:
            raise UserError(f"--suite {args.suite} needs --{name}")
    check_writable(Path(args.out), "give another --out")

    from advdmd_ray.evaluation.suites.layout import DpgBench, GenEval

    expect_token(os.environ.get("RAY_ADDRESS"))
    from advdmd_ray.runtime.counting import MOMENT_S, counted
    from advdmd_ray.runtime.suite import SuiteSettings, default_gpus, draw_suite

    suite = GenEval(Path(args.metadata), args.images) if args.suite == "geneval" else DpgBench(Path(args.prompts))
    if suite.left_out:
        said, more = ", ".join(map(shown, suite.left_out[:NAMED])), ", ..." if len(suite.left_out) > NAMED else ""
        warn(f"{args.prompts}: left out {len(suite.left_out)} that are no prompts: {said}{more}")
    height, width = args.size or (None, None)
    if args.suite == "dpg" and height != width:
        raise UserError(f"--size {height}x{width}: DPG-Bench's scorer cuts squares out of a grid; give a square")
    gpus_each = default_gpus() if args.gpus_each is None else args.gpus_each
    precision = ("bfloat16" if gpus_each else "float32") if args.precision == "auto" else args.precision
    settings = SuiteSettings(args.pipeline, args.steps, args.guidance, height, width, precision, args.seed)
    kept = "what is drawn stays; make room, and the same command draws the rest"
    with disk_told(args.out, kept), counted(f"prompts of {suite.name}", MOMENT_S) as progress:
        drawn = draw_suite(
            suite,
            Path(args.out),
            settings,
            actors=args.actors,
            gpus_each=gpus_each,
            progress=progress,
        )
    sys.stdout.write(f"{args.out}: {len(suite.prompts)} prompts, {drawn} of them drawn now\n")
    return DONE


def _collect(args: argparse.Namespace) -> int:
    from advdmd_ray.evaluation.suites.collect import collect, table

    if args.out is not None:
        check_file(Path(args.out), "--out")
    results = {file: collect(Path(file)) for file in args.collect}
    text = table(results)
    if args.out is not None:
        write_out(Path(args.out), text)
    sys.stdout.write(text)
    return DONE


def judge_table(verdict: Mapping[str, Any]) -> "Table":
    """The judge's verdict as a table.

    Args:
        verdict: What `facts_of` returns: `{"labels": [figure], "teacher": {steps: score}, "student": score with steps,
            "real": score}`, a score being `{"figures": {key: value}}`; the student may be absent.
    """
    from rich.table import Table

    labels = verdict["labels"]
    table = Table("sampler", "steps", *(label["label"] for label in labels))
    rows = [("teacher", str(steps), score) for steps, score in verdict["teacher"].items()]
    if verdict.get("student") is not None:
        rows.append(("student", str(verdict["student"]["steps"]), verdict["student"]))
    rows.append(("real, held out", "", verdict["real"]))
    for name, steps, score in rows:
        figures = (score["figures"].get(label["key"]) for label in labels)
        table.add_row(name, steps, *("" if value is None else f"{value:.3f}" for value in figures))
    return table


COMMAND = Command(
    "evaluate",
    "Judge a teacher and a student, or draw and collect a benchmark.",
    add_arguments,
    run_command,
    long=True,
)
