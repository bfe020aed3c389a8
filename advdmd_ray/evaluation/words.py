"""Figures as a reader reads them."""


def figure(value: float) -> str:
    """A number to three significant digits, without an exponent where it can be read: 0.0123, 4.57, 1,234."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):  # noqa: PLR2004 - where fixed point stops being readable
        return f"{value:.2e}"
    if abs(value) >= 100:  # noqa: PLR2004 - three digits stand before the point
        return f"{value:,.0f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8.2 s`, `4 min 07 s`, `1 h 02 min`."""
    if seconds < 59.95:  # noqa: PLR2004 - 60.0 s would read badly
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock_text(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def figure_text(value: float, *, share: bool) -> str:
    """One of the judge's figures: a share as a percentage, anything else to three digits, of which none is left out."""
    if share:
        return f"{value:.1%}".replace("%", " %")
    return f"{value:#.3g}" if 1e-3 <= abs(value) < 99.95 else figure(value)  # noqa: PLR2004 - beyond, no point is needed


def size_text(size: float) -> str:
    """A number of bytes: `812 B`, `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # noqa: PLR2004 - 1000 of a unit are one of the next
            return f"{figure(size)} {unit}"
        size /= 1000
    return f"{figure(size)} TB"
