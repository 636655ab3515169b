"""What the scripts of evaluation are given on the command line, read in one way."""

from __future__ import annotations

import click


def folders_of(weights: tuple[str, ...]) -> dict[str, str]:
    """Return the folder of each model of `--weights MODEL=FOLDER`."""
    pairs = {name: folder for name, _, folder in (given.partition("=") for given in weights)}
    if missing := [name for name, folder in pairs.items() if not folder]:
        raise click.BadParameter(f"no folder is given for {', '.join(missing)}; write MODEL=FOLDER")
    return pairs
