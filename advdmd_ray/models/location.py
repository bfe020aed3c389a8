"""Where a pipeline's folder is: shipped with the package, on disk, or in the cache of the Hugging Face hub.

A model of the hub is never downloaded by a run, whose workers all load it: tens of gigabytes are one command of the
user's, and what goes wrong with them is told there.
"""

import re
from importlib import resources
from pathlib import Path

from advdmd_ray.errors import UserError

BUILTIN = "builtin:"
_CACHED = "models--"
"""In front of owner--name, the hub's folder of a downloaded model."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model_path(path: str) -> Path:
    """Turn `builtin:NAME`, a folder, or a hub's `owner/name` that is no folder, into a folder.

    Raises:
        UserError: There is none.
    """
    if path.startswith(BUILTIN):
        return _shipped(path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_NAME.fullmatch(path):
        return _downloaded(path)
    raise UserError(f"{folder}: no such folder; give a diffusers pipeline folder or {BUILTIN}digits")


def hub_name(path: str) -> str | None:
    """The name that a model has on the Hugging Face hub: as given, or as the hub's cache names its folder; or None."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return path if _HUB_NAME.fullmatch(path) else None
    cached = [part.removeprefix(_CACHED) for part in folder.absolute().parts if part.startswith(_CACHED)]
    name = cached[-1].replace("--", "/", 1) if cached else ""
    return name if _HUB_NAME.fullmatch(name) else None


def _shipped(path: str) -> Path:
    name = path.removeprefix(BUILTIN)
    assets = Path(str(resources.files("advdmd_ray"))) / "assets"
    shipped = sorted(entry.parent.name for entry in assets.glob("*/model_index.json"))
    if name not in shipped:
        raise UserError(f"{path}: no such built-in model; use one of: {', '.join(BUILTIN + s for s in shipped)}")
    return assets / name


def _downloaded(name: str) -> Path:
    """The snapshot at the revision that `main` had when it was downloaded."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{name}: no such folder here, and no such model in {constants.HF_HUB_CACHE}; download it on every node by "
            f"`hf download {name}`, or give a diffusers pipeline folder or {BUILTIN}digits"
        ) from None
