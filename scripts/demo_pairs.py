"""Write the embeddings and losses of a run as plain arrays, as any other model's would come: for `geoelle fit --pairs`.

    python scripts/demo_pairs.py out/run -o out/pairs.npz

Nothing of geoelle is left in the file: vectors, losses, degrees, and three simple features that the vectors must beat.
"""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np

from geoelle.embeddings import Embeddings
from geoelle.errors import ProbeError
from geoelle.files import write_bytes

FEATURES = ("log_gray_var", "high_frequency_share", "ndvi_mean")


def pairs_of(table: Embeddings) -> dict[str, np.ndarray]:
    """Return the arrays of the valid chips: vector, loss, lon, lat and the features.

    Raises `ProbeError` for a run without a loss.
    """
    if table.loss_n is None:
        raise ProbeError("the run holds no loss, so there are no pairs; embed it with geoelle embed --loss")
    rows, names = np.flatnonzero(table.valid_n), table.header.feature_names
    lon_n, lat_n = table.addresses.lonlat_n2[rows].T
    features = {name: table.features_nf[rows, names.index(name)] for name in FEATURES}
    return {"vector": table.vectors_nd[rows], "loss": table.loss_n[rows], "lon": lon_n, "lat": lat_n, **features}


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The npz to write.")
@click.option("--overwrite", is_flag=True)
def main(run: Path, out: Path, overwrite: bool) -> None:
    packed = io.BytesIO()
    np.savez(packed, **pairs_of(Embeddings.read(run)))
    click.echo(write_bytes(out, packed.getvalue(), overwrite=overwrite))


if __name__ == "__main__":
    main()
