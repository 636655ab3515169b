"""Follow flags through the dates after a change: seen once, seen again, or gone. Arrays in, arrays out.

A cell's looks at which it was judged are its clear looks. An episode is a row of clear looks, one after the other, at
which it is flagged with one sign. A cell tells of its first episode of two looks or more, else of its last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["STATUSES", "Followed", "follow"]

STATUSES = ("none", "transient", "provisional", "confirmed")
"""`none`: never flagged. `transient`: flagged, and not at the next clear look. `provisional`: flagged at the last clear
look only. `confirmed`: flagged at two clear looks or more in a row, with one sign."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Followed:
    """The episode of each cell, all float64 (n,), NaN where it was never judged; where status is none, NaN but status.

    `status_n` counts `STATUSES`, `sign_n` is -1 or 1, `first_n` the day of first detection (days since 1970-01-01),
    `duration_n` the days from there to the last look of the episode, 0 for one look. `look_n` is the number of the look
    of first detection, 0 for the first, and `looks_n` how many clear looks there were (0 where none).
    """

    status_n: np.ndarray
    sign_n: np.ndarray
    first_n: np.ndarray
    duration_n: np.ndarray
    look_n: np.ndarray
    looks_n: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        """Count the cells of every status."""
        return {name: int((self.status_n == code).sum()) for code, name in enumerate(STATUSES)}


def follow(signed_ln: np.ndarray, days_ln: np.ndarray) -> Followed:
    """Follow each cell through l looks, the earliest first, both arrays (l, n).

    `signed_ln` is 0 where a cell is not flagged, else the sign of its change, NaN where it was not judged.

    >>> flags = np.array([[1.0, 1.0, 1.0, 0.0], [np.nan, 0, 1, 0], [1, 0, 0, -1]])
    >>> found = follow(flags, np.array([[0], [5], [9]]) + np.zeros(4))
    >>> [STATUSES[int(code)] for code in found.status_n], found.duration_n.tolist()
    (['confirmed', 'transient', 'confirmed', 'provisional'], [9.0, 0.0, 5.0, 0.0])
    """
    signed_ln, days_ln = np.asarray(signed_ln, np.float64), np.asarray(days_ln, np.float64)
    count = signed_ln.shape[1]
    sign_n, first_n, last_n, look_n = (np.full(count, np.nan) for _ in range(4))
    length_n = np.zeros(count, np.int64)
    going_n = np.zeros(count, bool)
    for look, (signed_n, days_n) in enumerate(zip(signed_ln, days_ln, strict=True)):
        seen_n = np.isfinite(signed_n)
        again_n = going_n & (signed_n == sign_n)
        last_n[again_n] = days_n[again_n]
        length_n[again_n] += 1
        going_n &= again_n | ~seen_n
        begins_n = seen_n & (signed_n != 0) & ~again_n & (length_n < 2)
        for values_n, new in ((sign_n, signed_n), (first_n, days_n), (last_n, days_n)):
            values_n[begins_n] = new[begins_n]
        look_n[begins_n], length_n[begins_n] = look, 1
        going_n |= begins_n
    looks_n = np.isfinite(signed_ln).sum(axis=0)
    status_n = np.select([looks_n == 0, length_n > 1, length_n == 0, going_n], [np.nan, 3.0, 0.0, 2.0], 1.0)
    return Followed(status_n=status_n, sign_n=sign_n, first_n=first_n, duration_n=last_n - first_n, look_n=look_n,
                    looks_n=looks_n.astype(np.float64))  # fmt: skip
