"""What the doctor says: one finding for each thing looked at, and the verdict."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: What was looked at.
        state: `ok`; `note`: works, and here is what to know; `change`: a run would fail.
        text: What was found and, for a change, what to do.
    """

    subject: str
    state: Literal["ok", "note", "change"]
    text: str


def verdict_text(findings: list[Finding]) -> str:
    """The findings as lines and, last, the verdict."""
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{finding.state:<6}  {finding.subject:<{width}}  {finding.text}" for finding in findings]
    changes = sum(finding.state == "change" for finding in findings)
    if not changes:
        verdict = "Ready: a run with this configuration can start here."
    elif changes == 1:
        verdict = "Not ready: make the one change above."
    else:
        verdict = f"Not ready: make the {changes} changes above."
    return "\n".join([*lines, "", verdict])


def some(count: int, noun: str) -> str:
    """A number of things, such as `1 worker` and `2 workers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
