"""Rows of many tables become one sample, of one space, with a loss."""

from dataclasses import replace

import numpy as np
import pytest

from geoelle.area import Addresses, Lattice
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import ProbeError, SpaceMismatch
from geoelle.sample import Sample


def table_of(epsg, col, n=40, model="nano", loss=True):
    rng = np.random.default_rng(col)
    lattice = Lattice(epsg=epsg, gsd_m=10.0, size_px=32, stride_px=16)
    space = {"model": model, "weights_sha256": "ab", "pooling": "mean", "target": "loss", "masking": "m"}
    addresses = Addresses(lattice=lattice, rows=-20_000 + 40 * np.arange(n), cols=np.full(n, col))
    return Embeddings(
        addresses=addresses,
        vectors_nd=rng.normal(size=(n, 6)).astype(np.float32),
        valid_n=np.ones(n, bool),
        valid_fraction_n=np.ones(n),
        times_n=np.full(n, np.datetime64("2021-06-01", "s")),
        items_n=["item"] * n,
        header=Header(space=space, sensor="sentinel-2-l2a", bands=("red",), feature_names=("a", "b")),
        loss_n=rng.uniform(1, 2, n) if loss else None,
        features_nf=rng.normal(size=(n, 2)).astype(np.float32),
        twins={f"twin{k}": rng.normal(size=(n, 6)).astype(np.float32) for k in range(2)},
    )


def test_a_sample_joins_tables_of_many_lattices():
    west, east = table_of(32631, 3000), table_of(32632, 3100)
    joined = Sample.of([west, east], sources=["w"] * 40 + ["e"] * 40)
    assert joined.vectors_nd.shape == (80, 6)
    np.testing.assert_array_equal(joined.lonlat_n2[40:], east.addresses.lonlat_n2)
    np.testing.assert_array_equal(joined.twins["twin1"][:40], west.twins["twin1"])
    assert joined.feature_names == ("a", "b")
    assert joined.loss_rel_n2 is None
    assert joined.at(joined.sources_n == "e").lonlat_n2.shape == (40, 2)
    with pytest.raises(SpaceMismatch):
        Sample.of([west, table_of(32632, 3100, model="clay")])
    with pytest.raises(ProbeError, match="nano embeddings have no loss"):
        Sample.of(table_of(32631, 3000, loss=False))


def test_sensors_may_differ_and_spaces_may_not():
    one, two = table_of(32631, 3000), table_of(32632, 3100)
    other = replace(two, header=replace(two.header, sensor="sentinel-2-l1c"))
    assert len(Sample.of([one, other], sources=["l2a"] * 40 + ["l1c"] * 40).loss_n) == 80
    with pytest.raises(SpaceMismatch, match="bands"):
        Sample.of([one, replace(two, header=replace(two.header, bands=("nir",)))])


def test_usable_rows_have_everything():
    sample = Sample.of(table_of(32631, 3000))
    sample.twins["twin0"][2] = sample.features_nf[5] = sample.loss_n[7] = sample.vectors_nd[9, 1] = np.nan
    assert np.flatnonzero(~sample.usable_n).tolist() == [2, 5, 7, 9]
