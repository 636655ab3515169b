"""Words and tables of the page of the series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from scipy import stats


def span(found: Mapping[str, float | None]) -> str:
    """Write a value and its interval.

    >>> span({"value": 0.5, "low": 0.25, "high": 0.75})
    '0.500 [0.250, 0.750]'
    """
    if found["value"] is None:
        return "-"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def share(found: Mapping[str, float | None]) -> str:
    """Write a share and its interval in per cent.

    >>> share({"value": 0.0123, "low": 0.0, "high": 0.05})
    '1.23% [0.00, 5.00]'
    """
    if found["value"] is None:
        return "-"
    return f"{found['value']:.2%} [{100 * found['low']:.2f}, {100 * found['high']:.2f}]"


def listed(names: Sequence[str]) -> str:
    """Write names one after the other.

    >>> listed(["token, cosine distance", "red"]), listed([])
    ('token, cosine distance; red', 'none')
    """
    return "; ".join(names) or "none"


def row(cells: Iterable[object]) -> str:
    """Write a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Write a table."""
    yield row(head)
    yield row(("---",) * len(head))
    yield from map(row, rows)


def exact(hits: int, count: int) -> dict[str, float]:
    """Return a share with its Clopper-Pearson interval.

    >>> {name: round(value, 3) for name, value in exact(0, 30).items()}
    {'hits': 0, 'value': 0.0, 'low': 0.0, 'high': 0.116}
    """
    span = stats.binomtest(hits, count).proportion_ci(method="exact")
    return {"hits": hits, "value": hits / count, "low": float(span.low), "high": float(span.high)}
