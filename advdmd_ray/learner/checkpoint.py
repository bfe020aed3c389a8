"""Checkpoints that are all or nothing: a kill at any instruction leaves the last whole one readable.

Layout of the folder:

    step-00000042/          one whole checkpoint: STEM.safetensors files and manifest.json
    .saving-step-00000043/  being written; renamed when every byte is on disk
    .replaced-step-00000042/  what a second save of step 42 replaces, until the new one stands
    .removed-step-00000040/ being deleted

`manifest.json` holds the step, the caller's facts, the size and SHA-256 of every file, and a SHA-256 of itself. One
process writes a folder; any number may read it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.tensor_file import TensorStream, write_tensors

_LOG: Final = logging.getLogger(__name__)
_FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_NAME: Final = re.compile(r"(?:\.replaced-)?step-(\d{8,})")
_STEM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


_OTHERS: Final = {
    "teacher": "a teacher of other weights than those of model.path",
    "data": "other prompts or real images than data.source has now",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files were found whole.

    Attributes:
        path: its folder.
        step: the step it was saved at.
        facts: what the saver wrote beside the tensors, as JSON gives it back.
        stems: names of its tensor files, sorted.
    """

    path: Path
    step: int
    facts: dict[str, Any]
    stems: tuple[str, ...]

    def load(self, stem: str) -> dict[str, Tensor]:
        """The tensors saved as `stem`, on the CPU, bit for bit.

        They are mapped from the file: what is read of them is page cache, which the system takes back when it likes.

        Raises:
            CheckpointError: if there is no such stem, or the file became unreadable.
        """
        if stem not in self.stems:
            raise CheckpointError(f"{self.path}: no tensors called {stem!r}; it holds {list(self.stems)}")
        try:
            return load_file(self.path / f"{stem}.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: {stem}.safetensors cannot be read: {error}") from error


def check_origin(checkpoint: Checkpoint, origin: Mapping[str, str]) -> None:
    """Makes sure that a learner goes on from its own teacher and data.

    Args:
        checkpoint: Of a learner.
        origin: Digest of its `teacher` and of its `data` as they are now.

    Raises:
        CheckpointError: if one is another than that which it was made with; older checkpoints do not say.
    """
    facts = checkpoint.facts["learner"]
    for name, digest in origin.items():
        if facts.get(name, digest) != digest:
            raise CheckpointError(
                f"{checkpoint.path}: was made with {_OTHERS[name]}; give it back the old ones, or start anew by --fresh"
            )


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor] | TensorStream],
    facts: dict[str, Any],
    keep: int,
    *,
    spare: int | None = None,
) -> Path:
    """Writes `folder/step-` and the step in eight digits, and removes what it makes obsolete.

    The new one becomes the newest: checkpoints of a later step belong to a course that was given up (the run resumed
    from before them) and are removed with all but the last `keep`.

    Args:
        folder: made if it does not exist.
        step: >= 0; an existing checkpoint of this step is replaced.
        tensors: file stem (letters, digits, `_`, `-`, `.`) -> tensors by name, or a stream of them, which is written as
            it comes.
        facts: anything JSON can hold; no NaN, no infinities.
        keep: checkpoints kept, the new one included, >= 1.
        spare: step of an earlier one that is kept as well, if it is there.

    Returns:
        The folder of the new checkpoint.

    Raises:
        ValueError: for a value out of range, a bad stem, facts that are not JSON, or tensors that `write_tensors`
            refuses.
        CheckpointError: if the disk refuses (full, read-only, gone); the older checkpoints are untouched.
    """
    bad = [stem for stem in tensors if not _STEM.fullmatch(stem)]
    if step < 0 or keep < 1 or bad:
        raise ValueError(f"need step >= 0, keep >= 1 and plain stems, got {step}, {keep} and {bad}")
    body = {"format": _FORMAT, "step": step, "facts": facts}
    json.dumps(body, allow_nan=False)  # refuse facts that are not JSON before the disk is touched
    target = folder / f"step-{step:08d}"
    temporary = folder / f".saving-{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(folder)
        temporary.mkdir()
        _write_files(temporary, tensors, body)
        _move_into_place(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{target} could not be saved, the older checkpoints are untouched: {error}") from error
    _prune(folder, step, keep, spare)
    return target


def saved_steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step, ascending; not opened, so one of them may be damaged."""
    return {_step(path): path for path in reversed(_candidates(folder)) if not path.name.startswith(".")}


def latest_checkpoint(folder: Path) -> Checkpoint:
    """The newest whole checkpoint in `folder`. A damaged one is passed over with a warning that says what is wrong.

    Raises:
        CheckpointError: if there is none, or none is whole; says what is wrong with each.
    """
    wrong: list[str] = []
    for path in _candidates(folder):
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError as error:
            wrong.append(str(error))
        else:
            for said in wrong:
                _LOG.warning("damaged checkpoint passed over: %s", said)
            if wrong:
                _LOG.warning("falling back to the checkpoint of step %d, %s", checkpoint.step, path)
            return checkpoint
    raise CheckpointError(f"{folder}: no whole checkpoint; " + ("; ".join(wrong) or "there are none at all"))


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens one checkpoint folder after reading every byte of it and comparing sizes and hashes.

    Raises:
        CheckpointError: if anything is missing, truncated or altered; says what.
    """
    return _opened(path, hashed=True)


def verified_checkpoint(path: Path) -> Checkpoint:
    """Opens one that `open_checkpoint` has found whole, as pre-flight does once for all processes of a run.

    Only the manifest's hash and the sizes of the files are compared again: no process reads all bytes for that.

    Raises:
        CheckpointError: if the manifest is altered, or a file is missing or truncated.
    """
    return _opened(path, hashed=False)


def _opened(path: Path, *, hashed: bool) -> Checkpoint:
    body = _read_manifest(path)
    for name, expected in body["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != expected["bytes"]:
                raise CheckpointError(f"{path}: {name} has {size} bytes, {expected['bytes']} were written")
            if hashed and _sha256(file) != expected["sha256"]:
                raise CheckpointError(f"{path}: {name} has changed since it was written (SHA-256 differs)")
        except OSError as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {error}") from error
    stems = tuple(sorted(name.removesuffix(".safetensors") for name in body["files"]))
    return Checkpoint(path, body["step"], body["facts"], stems)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest's body, after its own hash was checked."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {_MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("body"), dict):
        raise CheckpointError(f"{path}: {_MANIFEST} is not a checkpoint manifest")
    body = manifest["body"]
    if manifest.get("sha256") != _body_digest(body):
        raise CheckpointError(f"{path}: {_MANIFEST} has changed since it was written (SHA-256 differs)")
    if body["format"] != _FORMAT:
        raise CheckpointError(f"{path}: format {body['format']}, this program reads format {_FORMAT}")
    return body


def _write_files(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor] | TensorStream], body: dict[str, Any]
) -> None:
    """Writes tensors and manifest into `folder` and waits until the disk has them."""
    files = {}
    for stem, named in tensors.items():
        path = folder / f"{stem}.safetensors"
        written = write_tensors(path, named if isinstance(named, TensorStream) else TensorStream.of(named))
        _sync(path)
        files[path.name] = {"bytes": written.size, "sha256": written.sha256}
    # through JSON once, so that the hash is that of what a reader gets (keys are strings there)
    body = json.loads(json.dumps({**body, "files": files}))
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({"sha256": _body_digest(body), "body": body}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def _move_into_place(temporary: Path, target: Path) -> None:
    """Renames, atomically; what stood there is readable under its other name until the new one stands."""
    replaced = target.with_name(f".replaced-{target.name}")
    if target.exists():
        target.replace(replaced)
    temporary.replace(target)
    _sync(target.parent)


def _clear_leftovers(folder: Path) -> None:
    """Settles what a killed save left: half-made folders go, a checkpoint that was not replaced comes back."""
    for replaced in folder.glob(".replaced-step-*"):
        target = folder / replaced.name.removeprefix(".replaced-")
        if not target.exists():
            replaced.replace(target)
    for pattern in (".saving-step-*", ".removed-step-*", ".replaced-step-*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover)


def _prune(folder: Path, step: int, keep: int, spare: int | None) -> None:
    """Removes checkpoints after `step`, and all but the last `keep` and the one to spare.

    The new one stands, so failing here only warns.
    """
    found = [(_step(path), path) for path in _candidates(folder)]
    replaced = [path for _, path in found if path.name.startswith(".")]
    later = [path for at, path in found if at > step]
    older = [path for at, path in found if at <= step and path not in replaced]
    old = [path for path in older[keep:] if _step(path) != spare]
    for path in {*replaced, *later, *old}:
        try:
            removed = folder / f".removed-step-{_step(path):08d}"
            path.replace(removed)  # a half-deleted checkpoint must not look like a damaged one
            shutil.rmtree(removed)
        except OSError as error:
            _LOG.warning("obsolete checkpoint %s could not be removed: %s", path, error)


def _candidates(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first; of one step, the one in place before the one it replaces."""
    paths = [path for path in folder.glob("*step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda path: (-_step(path), path.name.startswith(".")))


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named like a checkpoint")
    return int(match[1])


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Waits until the disk holds the file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
