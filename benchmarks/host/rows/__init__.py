"""All rows of the table; one file for each kind of work."""

from benchmarks.host.contest import Row
from benchmarks.host.rows import buffer, controller, lease, loop, start, weights

ROWS: tuple[Row, ...] = (
    buffer.BUFFER,
    buffer.SCORING,
    weights.SIXTEEN,
    weights.LARGE,
    controller.CONTROLLER,
    lease.LEASE,
    loop.DIGITS,
    loop.SHAPES,
    start.START,
)
