"""The configurations that ship: `digits` is configs/digits.yaml, `compare/shapes` is configs/compare/shapes.yaml."""

import re
from pathlib import Path

from advdmd_ray.config.named import nearest

_PACKAGE = Path(__file__).parents[1]


def shipped_folder() -> Path:
    """`configs/`: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def shipped_names() -> tuple[str, ...]:
    """Every name, those of runs first."""
    folder = shipped_folder()
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (file.parent != folder, file))
    return tuple(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def shipped_path(name: str) -> Path:
    """The file of one of `shipped_names`."""
    return shipped_folder() / f"{name}.yaml"


def shipped_text(name: str) -> str:
    """The text of a shipped file as it can stand anywhere: its base is a shipped name."""
    path = shipped_path(name)

    def named(base: re.Match[str]) -> str:
        file = (path.parent / base[1]).resolve()
        return f"base: {file.relative_to(shipped_folder().resolve()).with_suffix('')}"

    return re.sub(r"^base: (\S+)$", named, path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def locate(name: str | Path, kind: str = "", beside: Path | None = None) -> Path:
    """The file that a user names: a path, which wins where there is such a file, or a shipped name.

    Args:
        name: What the user gave.
        kind: Folder of the shipped ones that are meant, such as `compare`; empty: runs.
        beside: Folder that paths are relative to; None: the working directory.
    """
    path = Path(name) if beside is None else beside / name
    shipped = f"{kind}/{str(name).removeprefix(f'{kind}/')}" if kind else str(name)
    return shipped_path(shipped) if shipped in shipped_names() and not path.is_file() else path


def nearest_shipped(name: str | Path, kind: str = "") -> str:
    """The shipped name of this kind that is most like `name`, as `locate` takes it."""
    names = [shipped.removeprefix(f"{kind}/") for shipped in shipped_names() if _kind_of(shipped) == kind]
    return nearest(Path(name).stem, names)


def _kind_of(name: str) -> str:
    return name.rpartition("/")[0]
