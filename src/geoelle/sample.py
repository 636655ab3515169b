"""Gather the rows that a fit and its nulls are scored on, from one table of embeddings or from many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np

from geoelle.embeddings import Embeddings
from geoelle.errors import ProbeError

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The rows that a fit and its nulls are scored on, from one table of embeddings or from many.

    `loss_n` is the trained model's; `loss_rel_n2` the same under two independent permutations; `features_nf`
    the pixel complexity named by `feature_names`; `sources_n` a label (source, sensor or level) a chip. Pairs that
    are not of the ground have neither `lonlat_n2` nor `times_n`.
    """

    vectors_nd: np.ndarray
    loss_n: np.ndarray
    lonlat_n2: np.ndarray | None = None
    times_n: np.ndarray | None = None
    loss_rel_n2: np.ndarray | None = None
    features_nf: np.ndarray | None = None
    feature_names: tuple[str, ...] = ()
    twins: Mapping[str, np.ndarray] = field(default_factory=dict)
    sources_n: np.ndarray | None = None

    @classmethod
    def of(cls, tables: Embeddings | Sequence[Embeddings], sources: Sequence[str] | None = None) -> Self:
        """Take the arrays out of embeddings of one space; `sources` labels their chips in order.

        Sensors may differ (levels, platforms): a probe can take one for difficulty, so label them with `sources`.

        Raises `ProbeError` where there is no loss, `SpaceMismatch` where the tables are of two spaces.
        """
        tables = [tables] if isinstance(tables, Embeddings) else list(tables)
        for table in tables:
            tables[0].header.merge(replace(table.header, sensor=tables[0].header.sensor))
        if any(table.loss_n is None for table in tables):
            raise ProbeError(f"{tables[0].header.space['model']} embeddings have no loss; embed them with loss")
        names = set.intersection(*(set(table.twins) for table in tables))
        return cls(
            vectors_nd=_joined([table.vectors_nd for table in tables]),
            loss_n=_joined([table.loss_n for table in tables]),
            lonlat_n2=_joined([table.addresses.lonlat_n2 for table in tables]),
            times_n=_joined([table.times_n for table in tables]),
            loss_rel_n2=_joined([table.loss_rel_n2 for table in tables]),
            features_nf=_joined([table.features_nf for table in tables]),
            feature_names=tables[0].header.feature_names,
            twins={name: _joined([table.twins[name] for table in tables]) for name in sorted(names)},
            sources_n=None if sources is None else np.asarray(sources),
        )

    @property
    def finite(self) -> dict[str, np.ndarray]:
        """Mark, by column of a part, the rows without NaN there, bool (n,): vector, loss, features and twins."""
        parts = {"vector": self.vectors_nd, "loss": self.loss_n[:, None], "features": self.features_nf, **self.twins}
        return {name: np.isfinite(part).all(1) for name, part in parts.items() if part is not None}

    @property
    def usable_n(self) -> np.ndarray:
        """Mark the rows without NaN in vector, loss, features and twins, bool (n,)."""
        return np.all(list(self.finite.values()), axis=0)

    def at(self, rows: np.ndarray) -> Self:
        """Return some rows, by mask or number."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        taken = {k: v[rows] for k, v in arrays.items() if isinstance(v, np.ndarray)}
        twins = {name: vectors[rows] for name, vectors in self.twins.items()}
        return Sample(**(arrays | taken | {"twins": twins}))


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    return None if any(array is None for array in arrays) else np.concatenate(arrays)
