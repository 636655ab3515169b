"""What `import geoelle` offers, and what it costs: names resolve, and heavy libraries wait until they are used."""

import importlib
import subprocess
import sys

import pytest

import geoelle

HEAVY = ("torch", "sklearn", "rasterio", "xarray", "pandas")


def loaded_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return which modules it has loaded."""
    told = "import sys\n" + code + "\nprint('LOADED', *sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("LOADED "))
    return set(line.split()[1:])


@pytest.mark.parametrize("name", geoelle.__all__)
def test_every_export_resolves(name: str):
    found = getattr(geoelle, name)
    home = importlib.import_module(f"geoelle.{geoelle._EXPORTS[name]}")
    assert name in home.__all__
    assert found is getattr(home, name)


def test_exports_are_what_dir_shows():
    assert dir(geoelle) == geoelle.__all__ == sorted(set(geoelle.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        geoelle.no_such_name  # noqa: B018


def test_importing_geoelle_loads_nothing_heavy():
    assert loaded_after("import geoelle").isdisjoint((*HEAVY, "numpy"))


@pytest.mark.parametrize("command", ["--help", "map --help", "sensors", "--version"])
def test_help_loads_no_torch(command: str):
    code = f"import geoelle.cli\nsys.argv = ['geoelle', *{command.split()!r}]\n"
    code += "try:\n    geoelle.cli.main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code"
    assert "torch" not in loaded_after(code)


@pytest.mark.parametrize(
    ("module", "walled"),
    [
        ("probe", ("geoelle.models", "torch", "pystac")),
        ("ridge", ("geoelle.models", "torch", "pystac")),
        ("raster", ("geoelle.models", "torch", "sklearn")),
        ("models.nano", ("pystac", "pystac_client", "rasterio", "sklearn")),
        ("read", ("geoelle.models", "torch", "sklearn")),
    ],
)
def test_the_walls_of_the_architecture_stand(module: str, walled: tuple[str, ...]):
    assert loaded_after(f"import geoelle.{module}").isdisjoint(walled)
