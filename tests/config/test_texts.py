"""What a text and a path can be, whoever gives them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config.texts import MOST_NAME, path_fault, shown, text_fault

PLAIN = st.characters(exclude_categories=["Cc", "Cs"])


@given(st.text(alphabet=PLAIN))
def test_text_of_any_language_is_text(text: str) -> None:
    assert text_fault(text) is None


@given(st.text(alphabet=PLAIN), st.characters(categories=["Cc"]), st.text(alphabet=PLAIN))
def test_a_control_character_is_told_unless_it_is_allowed_and_is_never_shown(
    before: str, character: str, after: str
) -> None:
    text = before + character + after
    fault = text_fault(text)
    assert fault is not None
    assert fault.startswith("expected text without control characters, got ")
    assert character not in fault
    assert text_fault(text, allowed=character) is None


def test_bytes_that_are_no_utf8_are_told_by_their_place() -> None:
    said = text_fault(b"ab\xffc".decode(errors="surrogateescape"))
    assert said == r"expected UTF-8 text, got other bytes at character 2 of 'ab\udcffc'"
    said.encode()


@given(st.text(min_size=1000))
def test_what_is_long_is_shown_by_its_beginning(text: str) -> None:
    assert len(shown(text)) < 500
    assert shown(text).endswith("...")


@pytest.mark.parametrize("path", ["a", "/a/b.c", "~/x", "builtin:digits", "a b/ü", "x" * MOST_NAME, "/x" * 1000])
def test_a_path_that_may_be_there_is_looked_for(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "got an empty text"),
        (" ", "got an empty text"),
        ("a/" + "x" * (MOST_NAME + 1), "got one of 201"),
        ("ü" * 101, "got one of 202"),
        ("/x" * 3000, "a path of at most 3000 bytes, got 6000"),
        ("a\0b", r"got 'a\x00b'"),
    ],
)
def test_a_path_that_no_file_system_takes_is_told(path: str, says: str) -> None:
    assert says in (path_fault(path) or "")
