"""What a setting names: classes and functions that ship by a short name, those of others as `package.module:Name`."""

import difflib
import importlib
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from advdmd_ray.errors import UserError

T = TypeVar("T")


def nearest(name: str, names: Sequence[str]) -> str:
    """Of one valid name at least, that which is most like the given one."""
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]


def named_class(key: str, name: str, shipped: Mapping[str, str], base: type[T]) -> type[T]:
    """Imports the class that a setting names.

    Args:
        key: The setting, for errors.
        name: Its value: a name that ships, or `package.module:Class`, which every process of a run must be able to
            import.
        shipped: Short name -> `package.module:Class`.
        base: What the class must derive from.

    Raises:
        UserError: if the name is unknown (the nearest valid one is named), or the module cannot be imported, has no
            such class, or an abstract one.
    """
    module, attribute, found = _found(key, name, shipped, "class", "Class")
    if not isinstance(found, type) or not issubclass(found, base):
        raise UserError(f"{key} = {name!r}: {module} has no class {attribute} that derives from {base.__name__}")
    if isinstance(found, ABCMeta) and found.__abstractmethods__:
        lacks = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"{key} = {name!r}: {attribute} is abstract; define its {lacks}")
    return found


def named_function(key: str, name: str, shipped: Mapping[str, str]) -> Callable[..., Any]:
    """Imports the function that a setting names; anything that can be called is one.

    Args:
        key: The setting, for errors.
        name: Its value: a name that ships, or `package.module:function`, which every process that calls it must be able
            to import.
        shipped: Short name -> `package.module:function`.

    Raises:
        UserError: as `named_class`, or if it cannot be called.
    """
    module, attribute, found = _found(key, name, shipped, "function", "function")
    if not callable(found):
        raise UserError(f"{key} = {name!r}: {module} has no function {attribute}")
    return found


def _found(key: str, name: str, shipped: Mapping[str, str], kind: str, written: str) -> tuple[str, str, object]:
    """The module and the name in it that a setting says, and what stands there; None: nothing does."""
    place = shipped.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise UserError(
            f"{key} = {name!r}: did you mean {nearest(name, list(shipped))}? It is one of {', '.join(shipped)}, or a "
            f"{kind} of your own as package.module:{written}"
        )
    if not module or module.startswith("."):
        raise UserError(f"{key} = {name!r}: expected package.module:{written}, with the module's whole name")
    try:
        return module, attribute, importlib.import_module(module).__dict__.get(attribute)
    except ImportError as error:
        raise UserError(
            f"{key} = {name!r}: cannot import {module} ({error}); install it or put its folder on PYTHONPATH, on every "
            "machine of the run"
        ) from None
    except Exception as error:  # noqa: BLE001 - code of anybody may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{key} = {name!r}: {module} fails when it is imported ({said}); mend it") from None
