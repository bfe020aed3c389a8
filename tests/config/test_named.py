"""A class that a setting names is imported, or one line says why not."""

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from advdmd_ray.config.named import named_class, named_function
from advdmd_ray.errors import UserError


class Fruit(ABC):
    """What is named here."""

    @abstractmethod
    def peel(self) -> None:
        """See the name."""

    @abstractmethod
    def eat(self) -> None:
        """See the name."""


class Apple(Fruit):
    """One that can be made."""

    def peel(self) -> None:
        """See `Fruit`."""

    def eat(self) -> None:
        """See `Fruit`."""


class Pear(Fruit):
    """One that cannot."""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "named_typo.py").write_text("def f(:\n")
    (tmp_path / "named_undefined.py").write_text("undefined\n")
    (tmp_path / "named_lines.py").write_text("raise ValueError('one\\ntwo')\n")


def named(name: str) -> type[Fruit]:
    return named_class("data.fruit", name, {"apple": f"{__name__}:Apple"}, Fruit)


def test_a_class_is_found_by_its_short_name_and_by_its_place() -> None:
    assert named("apple") is named(f"{__name__}:Apple") is Apple


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("aple", "did you mean apple? It is one of apple, or a class of your own as package.module:Class"),
        (":Apple", "expected package.module:Class, with the module's whole name"),
        (".fruit:Apple", "expected package.module:Class, with the module's whole name"),
        ("no_such_module:Apple", "cannot import no_such_module (No module named 'no_such_module'); install it"),
        ("named_typo:Apple", "named_typo fails when it is imported (SyntaxError: invalid syntax"),
        ("named_undefined:Apple", "fails when it is imported (NameError: name 'undefined' is not defined); mend it"),
        ("named_lines:Apple", "fails when it is imported (ValueError: one two); mend it"),
        (f"{__name__}:Plum", "has no class Plum that derives from Fruit"),
        (f"{__name__}:Pear", "Pear is abstract; define its eat, peel"),
    ],
)
@pytest.mark.usefixtures("modules")
def test_what_is_wrong_with_a_name_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        named(name)
    assert str(raised.value).startswith(f"data.fruit = {name!r}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_function_is_found_likewise_and_must_be_one() -> None:
    places = {"apple": f"{__name__}:named"}
    assert named_function("reward.fruit", "apple", places) is named_function("r", f"{__name__}:named", {}) is named
    for name, says in {
        "aple": "did you mean apple? It is one of apple, or a function of your own as package.module:function",
        ":named": "expected package.module:function, with the module's whole name",
        f"{__name__}:Plum": f"{__name__} has no function Plum",
        f"{__name__}:__name__": f"{__name__} has no function __name__",
    }.items():
        with pytest.raises(UserError) as raised:
            named_function("reward.fruit", name, places)
        assert str(raised.value).startswith(f"reward.fruit = {name!r}: ")
        assert says in str(raised.value)
