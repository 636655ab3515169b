"""Score a published model on the demo scene, blocks held out, by the commands a user would type; write its page.

    geoelle models pull galileo.nano
    python scripts/evaluate_model.py galileo.nano [--weights FOLDER]

One scene is one scene: it says whether the loss of this model can be read here, not everywhere (decision 10).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click

DOCS = Path(__file__).parents[1] / "docs"
AREA = ("--bbox", "-75.68,37.62,-75.56,37.73", "--dates", "2015/2018", "--catalog", "demo")
BLOCK = "2km"


@click.command()
@click.argument("name")
@click.option("--weights", help="As of geoelle embed.")
def main(name: str, weights: str | None) -> None:
    chosen = ("--model", name, *(("--weights", weights) if weights else ()))
    with tempfile.TemporaryDirectory() as folder:
        run, probe = str(Path(folder) / "run"), str(Path(folder) / "probe.safetensors")
        geoelle("embed", *chosen, "--loss", *AREA, "-o", run)
        told = geoelle("fit", run, "--block", BLOCK, "-o", probe)
    page = DOCS / f"evaluation-{name}.md"
    page.write_text(
        f"# {name} on the demo scene\n\n"
        f"Written by `scripts/evaluate_model.py {name}`: what these two commands print. The Virginia coast, Sentinel-2 L1C "
        "of 12 January 2016, published weights; blocks of 2 km held out, so the probe has seen the scene but not the ground "
        "it is scored on. One scene is one draw ([decision 10](decisions/0010-one-training-is-one-draw.md)).\n\n"
        f"```\ngeoelle embed --model {name} --loss {' '.join(AREA)} -o run/\n"
        f"geoelle fit run/ --block {BLOCK} -o probe.safetensors\n```\n\n{told.strip()}\n"
    )
    click.echo(page.name)


def geoelle(*words: str) -> str:
    """Run a command to its end and return what it said to people."""
    command = [sys.executable, "-m", "geoelle.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr)
    return done.stderr


if __name__ == "__main__":
    main()
