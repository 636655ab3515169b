"""Say what failed, for which object, with which value, and what to do about it.

    GeoelleError
     + AreaError                 a bbox, polygon, CRS or date that cannot be mapped
     + CatalogError              an endpoint, sensor or item that cannot be used
     |  + NoItems                a search that was answered with nothing
     + ReadError                 an asset that could not be read (item, asset, href, address)
     + ModelError                a model that cannot do what was asked
     |  + UnknownModel           no such name
     |  + WeightsError           a weights file that is not what it should be
     |  + CapabilityError        the checkpoint lacks the part that is needed
     |  + InputMismatch          chips the model does not accept
     + ProbeError                a probe that cannot be fitted or applied
     |  + SpaceMismatch          a probe of another space
     |  + HoldoutError           no places to hold out
     + FormatError               a file that does not follow docs/formats.md
"""

__all__ = [
    "AreaError",
    "CapabilityError",
    "CatalogError",
    "FormatError",
    "GeoelleError",
    "HoldoutError",
    "InputMismatch",
    "ModelError",
    "NoItems",
    "ProbeError",
    "ReadError",
    "SpaceMismatch",
    "UnknownModel",
    "WeightsError",
]


class GeoelleError(Exception):
    """Any failure a user, a server or a file can cause; its text is one line."""


class AreaError(GeoelleError):
    """A bbox, polygon, CRS or date that cannot be mapped."""


class CatalogError(GeoelleError):
    """An endpoint, a sensor or an item that cannot be used."""


class NoItems(CatalogError):
    """A search that was answered with no usable item."""


class ReadError(GeoelleError):
    """An asset that could not be read; carries which one."""

    def __init__(self, message: str, *, item: str = "", asset: str = "", href: str = "", address: str = "") -> None:
        super().__init__(message)
        self.item, self.asset, self.href, self.address = item, asset, href, address


class ModelError(GeoelleError):
    """A model that cannot do what was asked."""


class UnknownModel(ModelError):
    """No model of that name."""


class WeightsError(ModelError):
    """A weights file that is not what it should be."""


class CapabilityError(ModelError):
    """The checkpoint lacks the part that is needed (a decoder, say)."""


class InputMismatch(ModelError):
    """Chips the model does not accept: bands, size, frames or a missing need."""


class ProbeError(GeoelleError):
    """A probe that cannot be fitted or applied."""


class SpaceMismatch(ProbeError):
    """A probe fitted in another space than the embeddings at hand."""


class HoldoutError(ProbeError):
    """No places, or too few, to hold out."""


class FormatError(GeoelleError):
    """A file that does not follow docs/formats.md."""
