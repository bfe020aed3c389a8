"""Whether what a pipeline folder's files hold is sound, found where it is loaded: the headers do not say it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import ComponentInfo, PipelineInfo
from advdmd_ray.models.headers import tensor_shapes


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """What another library says of a folder that it cannot load, in one line.

    Raises:
        UserError: naming the folder, for whatever it raises.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # diffusers, transformers and tokenizers raise anything of damaged files
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder}: cannot be loaded ({said}); copy the folder again") from error


def check_loaded(info: PipelineInfo, component: ComponentInfo, network: nn.Module) -> None:
    """Make sure that a network has all of its weights out of the files, and that each is a number.

    Raises:
        UserError: naming the first tensor that is not there, or that holds what is no finite number, and its file.
    """
    weights = network.state_dict()
    # What the files lack the libraries draw at random. Of encoders and codecs they change names: these are counted.
    if component.name == "transformer":
        stored = {name for file in component.weight_files for name in tensor_shapes(file)}
        if missing := [name for name in weights if name not in stored]:
            raise UserError(
                f"{info.folder / component.name}: no file has {missing[0]}, which its config.json asks for; copy the "
                "folder again"
            )
    needed = sum(weight.numel() for weight in network.parameters())
    if component.parameters < needed:
        raise UserError(
            f"{info.folder / component.name}: its files have {component.parameters:,} weights, and its config.json "
            f"asks for {needed:,}; copy the folder again"
        )
    if all(map(_is_finite, weights.values())):
        return
    where = next(_not_finite(component.weight_files), info.folder / component.name)
    raise UserError(f"{where} holds NaN or infinite numbers; copy the file again, or ask where it was made")


def _is_finite(tensor: Tensor) -> bool:
    """In one pass and without a copy; NaN is both the least and the largest of what holds one."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, largest = tensor.aminmax()
    return bool(least.isfinite() and largest.isfinite())


def _not_finite(files: tuple[Path, ...]) -> Iterator[str]:
    """File and name of the tensors that are to blame."""
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                if not _is_finite(stored.get_tensor(name)):
                    yield f"{file}: {name}"
