"""The laws of the code base that no single module can keep."""

import ast
import functools
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from advdmd_ray.comparison.rivals import TRAINERS
from advdmd_ray.config import Config
from advdmd_ray.data.registry import SOURCES
from advdmd_ray.runs.folder import RunFolder

PACKAGE = Path(__file__).parent.parent / "advdmd_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
BESIDE = [path for room in ("benchmarks", "examples") for path in sorted((PACKAGE.parent / room).rglob("*.py"))]
WRITTEN = [*MODULES, *BESIDE]
"""Modules outside the package keep its laws too; an example may print."""
MAX_LINES, MAX_FUNCTION_LINES = 350, 60


def name_of(path: Path) -> str:
    """Its path in the package, or beside it."""
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else PACKAGE.parent).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def trees_with(paths: Iterable[Path], *texts: str) -> Iterator[tuple[Path, ast.Module]]:
    """Those files that hold one of these texts; the others have not what is looked for, and need no parsing."""
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if any(each in text for each in texts):
            yield path, ast.parse(text)


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """The top packages that a file imports, anywhere in it."""
    found = set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


@pytest.mark.parametrize(
    ("libraries", "home"),
    [
        ({"ray"}, "runtime/"),
        ({"deepspeed"}, "learner/deepspeed_engine.py"),
        ({"diffusers", "transformers", "peft"}, "models/"),
    ],
)
def test_a_library_is_imported_only_where_it_lives(libraries: set[str], home: str) -> None:
    strays = [name_of(path) for path in MODULES if libraries & imports_of(path) and not name_of(path).startswith(home)]
    assert strays == []


@pytest.mark.parametrize("arguments", [["-m", "advdmd_ray.run", "--help"], ["-c", "import advdmd_ray.config"]])
def test_help_and_configuration_answer_in_a_second_without_torch_or_ray(arguments: list[str]) -> None:
    assert any(processor_seconds([sys.executable, *arguments]) < 1.0 for _ in range(3))
    assert processor_seconds([str(Path(sys.executable).with_name("advdmd")), "--help"]) < 1.0
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True, cwd=PACKAGE.parent
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in traced.stderr.splitlines()}
    assert "pydantic" in imported
    assert not {"torch", "ray", "deepspeed", "diffusers", "numpy"} & imported


def processor_seconds(command: list[str]) -> float:
    """What a command takes of the processor: other processes on the machine do not count."""
    start = os.times()
    subprocess.run(command, check=True, capture_output=True, timeout=30, cwd=PACKAGE.parent)
    end = os.times()
    return end.children_user + end.children_system - start.children_user - start.children_system


def test_the_driver_and_an_idle_worker_are_spared_the_libraries_of_networks() -> None:
    """They take seconds to import, and most of a run's processes start side by side on few cores."""
    asked = "import sys, advdmd_ray.runtime.on_ray, advdmd_ray.runtime.learner_rank; print(*sys.modules)"
    traced = subprocess.run(
        [sys.executable, "-c", asked], check=True, capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent
    )
    imported = set(traced.stdout.split())
    assert "advdmd_ray.models.pipeline" in imported
    assert (
        not {"diffusers", "transformers", "peft", "deepspeed", "sklearn", "torch._dynamo", "matplotlib", "scipy"}
        & imported
    )


def fields_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        nested = [kind for kind in inner if issubclass(kind, BaseModel)]
        if nested:
            yield from fields_of(nested[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


def test_every_setting_is_described() -> None:
    fields = dict(fields_of(Config))
    assert len(fields) > 50
    assert [name for name, description in fields.items() if not description or not description.endswith(".")] == []


def test_files_and_functions_stay_short() -> None:
    long_files = [name_of(path) for path in WRITTEN if len(path.read_text().splitlines()) > MAX_LINES]
    assert long_files == []
    long_functions = [
        f"{name_of(path)}:{node.name}"
        for path in WRITTEN
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.body[0].lineno >= MAX_FUNCTION_LINES
    ]
    assert long_functions == []


def test_no_module_is_a_bag_of_helpers() -> None:
    assert [name_of(path) for path in WRITTEN if path.stem in {"utils", "util", "helpers", "common", "misc"}] == []


def test_nothing_is_printed_pickled_or_guessed() -> None:
    """No print, no pickle, no torch.load without weights_only, no getattr with a default."""
    pickles = {"pickle", "cloudpickle", "dill"}
    found = [f"{name_of(path)}: pickle" for path in WRITTEN if pickles & imports_of(path)]
    for path, tree in trees_with(WRITTEN, "print", "getattr", "torch.load"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg for keyword in node.keywords}
            guessed = called == "getattr" and len(node.args) > 2
            printed = called == "print" and not name_of(path).startswith("examples/")
            if printed or guessed or (called == "torch.load" and "weights_only" not in keywords):
                found.append(f"{name_of(path)}:{node.lineno}: {called}")
    assert found == []


def last_word(node: ast.expr) -> str:
    """The last word of a name: `step` of `self._global_step`, `step + 1` and `step`."""
    if isinstance(node, ast.BinOp):
        node = node.left
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return "" if "_per_" in name else name.rpartition("_")[2]


def test_only_the_cadence_counts_steps() -> None:
    """`step % k` and `cycle % k` decide what happens when: that is the cadence's business alone."""
    counters = {"step", "cycle", "version", "update", "iteration", "turn"}
    found = [
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in trees_with(MODULES, "%")
        if name_of(path) != "learner/cadence.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and last_word(node.left) in counters
    ]
    assert found == []


def test_only_the_run_folder_spells_the_names_in_it() -> None:
    """Other modules are handed paths, or ask `RunFolder`. `student` alone is a role unless it ends a path."""
    folder = RunFolder(Path("run"))
    properties = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    names = {getattr(folder, name).name for name in properties} | {folder.grid(0).parent.name}
    assert {"metrics.jsonl", "checkpoints", "grids", "run.lock"} <= names
    found = []
    for path, tree in trees_with(set(MODULES) - {PACKAGE / "runs" / "folder.py"}, *names):
        nodes = list(ast.walk(tree))
        joined = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
        for node in nodes:
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            is_role = node.value == folder.student.name and node not in joined
            if names & set(node.value.split("/")) and not is_role:
                found.append(f"{name_of(path)}:{node.lineno}: {node.value!r}")
    assert found == []


def test_no_error_is_swallowed() -> None:
    """A handler of Exception or of everything ends in raise."""
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in trees_with(WRITTEN, "except")
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert found == []


RIVALS = {
    "twinflow": {
        "comparison/twinflow.py",
        "comparison/twinflow_settings.py",
        "comparison/twin_cost.py",
        "comparison/twin_draws.py",
        "comparison/twin_losses.py",
        "comparison/twin_trajectories.py",
        "losses/twinflow.py",
    }
}
"""The files of each trainer that ships beside our own."""


def test_a_rival_is_named_in_its_own_files_and_the_registry_alone() -> None:
    assert {"advdmd", *RIVALS} == set(TRAINERS)
    for rival, files in RIVALS.items():
        known = {name_of(path) for path in MODULES if rival in path.read_text(encoding="utf-8").lower()}
        # config/layers.py tells an old run's file where its settings went.
        assert known - {"config/layers.py"} == {*files, "comparison/rivals.py"}


def test_no_file_outside_data_knows_a_source_by_name() -> None:
    """A new source touches its own files and the registry: nobody compares `data.source` or imports a source's code."""
    homes = {place.partition(":")[0].rpartition(".")[0] for place in SOURCES.values()}
    # The tables of a comparison tell the shapes' skills from other figures.
    known = {("comparison/results.py", "advdmd_ray.data.shapes.skills")}
    found = []
    for path, tree in trees_with(MODULES, ".source", *homes):
        for node in ast.walk(tree):
            chosen = {ast.Compare: "left", ast.Match: "subject", ast.Subscript: "slice"}.get(type(node))
            sides = [*([node.__dict__[chosen]] if chosen else []), *node.__dict__.get("comparators", [])]
            if any(ast.unparse(side).endswith(("data.source", "self.source")) for side in sides):
                found.append(f"{name_of(path)}:{ast.unparse(node)[:60]}")
            module = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
            foreign = module.rpartition(".")[0] in homes and not name_of(path).startswith("data/")
            if foreign and (name_of(path), module) not in known:
                found.append(f"{name_of(path)}: {module}")
    assert found == []


def test_no_two_files_import_each_other_by_whatever_way() -> None:
    """Imports in functions and for types alone count too; the package's face, which offers names of all, does not."""
    modules = {
        f"advdmd_ray.{name_of(path)[:-3].replace('/', '.')}": path for path in MODULES if PACKAGE in path.parents
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        wanted = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and node.module]
        named = {f"{node.module}.{alias.name}" for node in wanted for alias in node.names}
        graph[module] = ({node.module for node in wanted if node.module} | named) & modules.keys() - {module}
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()
    assert len(graph) > 150
    assert sum(map(len, graph.values())) > 500
