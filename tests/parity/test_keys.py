"""At full published size, on the meta device: keys, shapes and types are those of the files, no more and no less.

Most models have two lists, written apart: of the goldens (JSON) and of upstream's networks (text).
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import nn

from geoelle.errors import WeightsError
from geoelle.models import (
    clay,
    dino,
    dofa,
    fgmae,
    galileo,
    olmoearth,
    presto,
    prithvi,
    remoteclip,
    satclip,
    satmae,
    scalemae,
    vitmae,
)
from geoelle.models.networks import on_meta
from geoelle.models.weights import load_strict

Tensors = dict[str, tuple[tuple[int, ...], str]]


class List(NamedTuple):
    """Where the tensors of a file are listed, and what network has them.

    `label` begins the lines of a list of several files, `prefix` all keys of the file. `part` is the part of the
    network that the file is of, `unread` what is in the file and computed here or not used, by the start of its keys,
    `alien` what the list has and the file has not.
    """

    file: str
    kind: type[nn.Module]
    config: Any
    options: dict[str, bool] = {}  # noqa: RUF012 (never changed)
    label: str = ""
    prefix: str = ""
    part: str = ""
    unread: tuple[str, ...] = ()
    alien: tuple[str, ...] = ()

    def net(self) -> nn.Module:
        net = on_meta(lambda: self.kind(self.config, **self.options))
        return getattr(net, self.part) if self.part else net

    def read(self, shared: Path) -> Tensors:
        """Return shape and type by key."""
        folder = shared / ("goldens" if self.file.endswith(".json") else "models") / "keys"
        text = (folder / self.file).read_text("utf-8")
        if self.file.endswith(".json"):
            told = json.loads(text)
            assert len(told["keys"]) == told["count"]
            assert all(_under(key, self.unread) for key in told["computed_not_loaded"])
            rows = [(key, tuple(entry["shape"]), entry["dtype"]) for key, entry in told["keys"].items()]
        else:
            start = f"{self.label} " if self.label else ""
            row = re.compile(rf"^{start}(\S+)[ \t]\(([\d, ]*)\)(?:[ \t](\w+))?$", re.M)
            found = row.findall(text.split("## full listing")[-1])
            rows = [(key, tuple(map(int, re.findall(r"\d+", shape))), kind or "float32") for key, shape, kind in found]
        assert rows and all(key.startswith(self.prefix) for key, _, _ in rows)
        held = {key.removeprefix(self.prefix): (shape, kind) for key, shape, kind in rows}
        assert len(held) == len(rows)
        return {key: value for key, value in held.items() if not _under(key, self.alien)}


def _under(key: str, starts: tuple[str, ...]) -> bool:
    return any(key == start or key.startswith(f"{start}.") for start in starts)


def tensors(net: nn.Module) -> Tensors:
    found = net.state_dict()
    assert all(t.is_meta for t in found.values())
    return {key: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in found.items()}


FGMAE, SCALEMAE = fgmae.CONFIGS["fgmae.s2-base"], scalemae.CONFIGS["scalemae.large"]
DOFA = {size: dofa.CONFIGS[f"dofa.v1-{size}"] for size in ("base", "large")}
FILE = {size: replace(config, teacher_depth=0) for size, config in DOFA.items()}
COPY = {size: replace(config, extras=False) for size, config in FILE.items()}
PRITHVI = {
    "prithvi.v1-100m": "prithvi_eo_v1_100",
    "prithvi.v2-tiny-tl": "prithvi_eo_v2_tiny_tl",
    "prithvi.v2-100m-tl": "prithvi_eo_v2_100_tl",
    "prithvi.v2-300m": "prithvi_eo_v2_300",
    "prithvi.v2-300m-tl": "prithvi_eo_v2_300_tl",
    "prithvi.v2-600m": "prithvi_eo_v2_600",
    "prithvi.v2-600m-tl": "prithvi_eo_v2_600_tl",
}
SATMAE = {"b": "satmae.base", "l": "satmae.large"}
MONTHS = tuple(f"{part}.composite_encodings.month_embed.weight" for part in ("encoder", "decoder", "target_encoder"))
TABLES = ("encoder.pos_embed", "decoder.decoder_pos_embed")
DEAD = ("pos_embed", "decoder_pos_embed", "mask_token_decoder")
HOG = ("hog.weight_x", "hog.weight_y", "hog.gkern")
TEXT = ("positional_embedding", "text_projection", "logit_scale", "token_embedding", "transformer", "ln_final")

LISTS = [
    List("clay_v1_5.json", clay.ClayNet, clay.CONFIGS["clay.v1.5"], prefix="model."),
    List("clay_keys.txt", clay.ClayNet, clay.CONFIGS["clay.v1.5"], prefix="model."),
    List("dinov2_base_hf_keys.txt", dino.DinoNet, dino.CONFIGS["dinov2.base"]),
    List("dinov3_vitl16_sat493m_hf_keys.txt", dino.DinoNet, dino.CONFIGS["dinov3.sat-large"]),
    *(List(f"dofa_v1_{size}_official.json", dofa.DofaNet, config) for size, config in FILE.items()),
    *(List(f"dofa_v1_{size}_torchgeo.json", dofa.DofaNet, config) for size, config in COPY.items()),
    *(
        # torchgeo's class has a head and its norm, which no file has
        List("dofa_keys.txt", dofa.DofaNet, config, label=f"dofa_{size}_patch16_224", alien=("fc_norm", "head"))
        for size, config in COPY.items()
    ),
    List("fgmae_b13_vitb16.json", fgmae.FgMaeNet, FGMAE, unread=HOG),
    List("fgmae_B13_vitb16_keys.txt", fgmae.FgMaeNet, FGMAE, unread=HOG),
    List("fgmae_B13_vits16_keys.txt", fgmae.FgMaeNet, replace(FGMAE, dim=384, heads=6), unread=HOG),
    List(
        "fgmae_B2_vitb16_keys.txt", fgmae.FgMaeNet, replace(FGMAE, bands=("vv", "vh"), indices=False), unread=HOG
    ),
    *(
        List(
            f"galileo_nano_{part}_keys.txt", galileo.GalileoNet, galileo.CONFIGS["galileo.nano"], part=part,
            unread=("pos_embed", "month_embed.weight"),
        )
        for part in ("encoder", "target_encoder", "second_decoder")
    ),
    *(
        List(f"{re.sub('[.-]', '_', name)}.json", olmoearth.OlmoEarthNet, config, unread=MONTHS)
        for name, config in olmoearth.CONFIGS.items()
    ),
    *(
        List("olmoearth_keys.txt", olmoearth.OlmoEarthNet, config, label=name.rsplit("-", 1)[1], unread=MONTHS)
        for name, config in olmoearth.CONFIGS.items()
    ),
    List(
        "presto_default_model_keys.txt", presto.PrestoNet, presto.CONFIGS["presto"],
        unread=tuple(f"{part}.{t}" for part in ("encoder", "decoder") for t in ("pos_embed", "month_embed.weight")),
    ),
    *(
        List(f"{listed}.json", prithvi.PrithviNet, prithvi.CONFIGS[name], unread=TABLES)
        for name, listed in PRITHVI.items()
    ),
    *(
        List("prithvi_keys.txt", prithvi.PrithviNet, prithvi.CONFIGS[name], label=listed, unread=TABLES)
        for name, listed in PRITHVI.items()
    ),
    List(
        "remoteclip_vitl14_openclip_keys.txt", remoteclip.RemoteClipNet, remoteclip.CONFIGS["remoteclip.vit-l-14"],
        unread=TEXT,
    ),
    List(
        "satclip_vit16_l40_keys.txt", satclip.SatClipNet, satclip.CONFIGS["satclip.vit16-l40"], prefix="model.",
        unread=("nnet",),
    ),
    *(
        List(f"{name.replace('.', '_')}_multispec_pretrain.json", satmae.SatMaeNet, config)
        for name, config in satmae.CONFIGS.items()
    ),
    *(
        List(f"satmae_vit{size}_multispec_pretrain_keys.txt", satmae.SatMaeNet, satmae.CONFIGS[name])
        for size, name in SATMAE.items()
    ),
    List("scalemae_large_full.json", scalemae.ScaleMaeNet, SCALEMAE, unread=DEAD),
    List("scalemae_vitl_fmow800_fullrepo_defaults_keys.txt", scalemae.ScaleMaeNet, SCALEMAE, unread=DEAD),
    # torchgeo's network has a head of its own; its file has none, as the size tells
    List(
        "scalemae_vitl_torchgeo_keys.txt", scalemae.ScaleMaeNet, SCALEMAE, {"decoder": False}, unread=("pos_embed",),
        alien=("head",),
    ),
    List("vitmae_base.json", vitmae.VitMaeNet, vitmae.CONFIGS["vitmae.base"]),
]  # fmt: skip


@pytest.mark.parametrize("row", LISTS, ids=lambda row: " ".join(filter(None, [row.file, row.label])))
def test_keys_shapes_and_types_are_those_of_the_file(row: List, shared: Path) -> None:
    ours, whole = tensors(row.net()), row.read(shared)
    unread = {key: value for key, value in whole.items() if row.kind.IGNORED and re.search(row.kind.IGNORED, key)}
    assert not set(unread) & set(ours)
    assert ours | unread == whole
    assert all(_under(key, row.unread) for key in unread)
    assert all(any(_under(key, (start,)) for key in unread) for start in row.unread)


def test_lists_of_one_file_agree(shared: Path) -> None:
    """Those of tensors that are not read here included."""
    files: dict[tuple, list[Tensors]] = {}
    for row in LISTS:
        files.setdefault((row.kind, row.config, row.part, *row.options), []).append(row.read(shared))
    assert sum(len(lists) > 1 for lists in files.values()) == 18
    assert all(found == lists[0] for lists in files.values() for found in lists)


def test_every_prithvi_is_listed() -> None:
    assert set(PRITHVI) == set(prithvi.CONFIGS)


@pytest.mark.parametrize("size", DOFA)
def test_a_decoder_adds_the_listed_keys_to_dofa(size: str, shared: Path) -> None:
    told = json.loads((shared / "goldens/keys" / f"dofa_v1_{size}_decoder_if_present.json").read_text("utf-8"))
    wanted = {key: (tuple(entry["shape"]), entry["dtype"]) for key, entry in told["keys"].items()}
    computed = {key: wanted.pop(key) for key in told["computed_not_loaded"]}
    with_decoder, without = (
        tensors(on_meta(lambda c=c: dofa.DofaNet(c))) for c in (replace(FILE[size], decoder=True), FILE[size])
    )
    assert without.items() <= with_decoder.items()
    assert {key: value for key, value in with_decoder.items() if key not in without} == wanted
    assert all(re.search(dofa.DofaNet.IGNORED, key) for key in computed)
    assert not any(re.search(dofa.DofaNet.IGNORED, key) for key in wanted)


def test_the_teacher_of_dofa_has_the_keys_of_the_published_one() -> None:
    """Its repository is the one timm names; its classifier is not needed."""
    arch = dofa.TEACHER.repo.removeprefix("timm/")
    assert timm.get_pretrained_cfg(arch).hf_hub_id == dofa.TEACHER.repo
    published = {f"teacher.{k}": v for k, v in tensors(on_meta(lambda: timm.create_model(arch))).items()}
    ours = tensors(on_meta(lambda: dofa.DofaNet(DOFA["base"])))
    ours = {key: value for key, value in ours.items() if key.startswith("teacher.")}
    assert ours == {key: value for key, value in published.items() if not re.search(dofa.DofaNet.IGNORED, key)}
    assert len(published) - len(ours) == 2


@pytest.mark.parametrize(("name", "blocks"), [("galileo.tiny", (12, 4)), ("galileo.base", (12, 4))])
@pytest.mark.parametrize("part", ["encoder", "second_decoder"])
def test_larger_galileo(name: str, blocks: tuple[int, int], part: str, shared: Path) -> None:
    """Their lists are not at hand: nano's, at their width and depth, which upstream's own configs state."""
    config, kind = galileo.CONFIGS[name], galileo.GalileoNet
    widths = {128: config.dim, 512: 4 * config.dim, 32: config.dim // 4}
    wanted: Tensors = {}
    for key, (shape, dtype) in List(f"galileo_nano_{part}_keys.txt", kind, config).read(shared).items():
        for i in range(blocks[part == "second_decoder"]) if key.startswith("blocks.0.") else (0,):
            grown = tuple(widths.get(size, size) for size in shape)
            wanted[key.replace("blocks.0.", f"blocks.{i}.")] = grown, dtype
    wanted = {key: value for key, value in wanted.items() if not re.search(kind.IGNORED, key)}
    assert tensors(getattr(on_meta(lambda: kind(config)), part)) == wanted


@pytest.mark.parametrize(
    ("name", "listing", "told"),
    [
        ("satmae.base", "satmae_vitb_multispec_finetune", "fine-tuned on labels"),
        ("satmae.large", "satmae_vitl_fmow_rgb_pretrain", "RGB or time series"),
        ("satmae.base", "satmae_vitl_multispec_pretrain", "has foreign .*blocks"),
    ],
)
def test_other_files_of_satmae_are_refused(name: str, listing: str, told: str, shared: Path) -> None:
    row = List(f"{listing}_keys.txt", satmae.SatMaeNet, satmae.CONFIGS[name])
    state = {key: torch.empty(shape, device="meta") for key, (shape, _) in row.read(shared).items()}
    with pytest.raises(WeightsError, match=told):
        load_strict(row.net(), state, name="model.safetensors", hints=satmae.HINTS)


@pytest.mark.parametrize("name", ["dinov2.base", "dinov3.sat-large"])
def test_all_of_a_dino_speak_the_same_names(name: str) -> None:
    """Drawing weights goes by `named_parameters`, loading by `state_dict`: both have the names of the file."""
    net = on_meta(lambda: dino.DinoNet(dino.CONFIGS[name]))
    assert [k for k, _ in net.named_parameters()] == list(net.state_dict())
    assert not list(net.buffers())
    assert all(isinstance(p, torch.nn.Parameter) for p in net.parameters())


# --- sizes that are published, of networks and of files

OLMOEARTH = {
    "olmoearth.v1-nano": (1_361_024, 827_520),
    "olmoearth.v1-tiny": (6_202_560, 1_855_680),
    "olmoearth.v1-base": (88_953_600, 29_541_120),
    "olmoearth.v1-large": (307_770_368, 52_495_360),
}
"""Of the encoder and of the decoder, fixed tables of months (12 x dim / 4) included."""
PRITHVI_BYTES = {
    "prithvi.v1-100m": 453_671_052,
    "prithvi.v2-tiny-tl": 129_000_000,
    "prithvi.v2-100m-tl": 454_660_610,
    "prithvi.v2-300m-tl": 1_326_660_716,
    "prithvi.v2-600m-tl": 2_638_217_218,
}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def numbers(net: nn.Module) -> int:
    return sum(tensor.numel() for tensor in net.state_dict().values())


def test_parameters_are_as_many_as_published() -> None:
    parts = {name: count(part) for name, part in LISTS[0].net().named_children()}
    assert parts == {"encoder": 311_442_944, "decoder": 15_900_160, "proj": 1_049_600, "teacher": 304_370_688}
    for name, wanted in {"dinov2.base": 86_580_480, "dinov3.sat-large": 303_129_600}.items():
        assert count(on_meta(lambda n=name: dino.DinoNet(dino.CONFIGS[n]))) == wanted
    for name, config in olmoearth.CONFIGS.items():
        net, months = on_meta(lambda c=config: olmoearth.OlmoEarthNet(c)), 12 * config.dim // 4
        assert (count(net.encoder) + months, count(net.decoder) + months) == OLMOEARTH[name]


def test_the_card_of_clay_is_of_the_published_model() -> None:
    card = clay.CARDS["clay.v1.5"]
    assert (card.dim, card.patch_px, card.chip_px, card.grid, card.mask_ratio) == (1024, 8, 256, 32, 0.75)
    assert card.target == "loss" and card.objective == "0.9 rec + 0.1 rep" and not card.additive
    assert card.files[0].file == "v1.5/clay-v1.5.ckpt"


@pytest.mark.parametrize("name", PRITHVI_BYTES)
def test_the_published_size_of_prithvi_is_that_of_encoder_decoder_and_tables(name: str) -> None:
    """Nothing is missing from a file and nothing else is in it: what is left over is the index of the archive.

    Of the tiny model only a rounded size is known; tables of one frame, as terratorch has it, would miss it by 1.6 MB.
    """
    config = prithvi.CONFIGS[name]
    net = on_meta(lambda: prithvi.PrithviNet(config))
    tables = (config.frames * config.grid**2 + 1) * (config.dim + config.decoder_dim)
    told = PRITHVI_BYTES[name] - 4 * (numbers(net) + tables)
    assert abs(told) < 0.5e6 if "tiny" in name else 0 < told < 500 * (len(net.state_dict()) + 2)


def test_the_encoder_file_of_scalemae_is_the_encoder_and_its_table() -> None:
    """As above: what is left over is the index of the archive."""
    net = on_meta(lambda: scalemae.ScaleMaeNet(SCALEMAE, decoder=False))
    assert 0 < scalemae.ENCODER.bytes - 4 * (numbers(net) + 197 * 1024) < 500 * (len(net.state_dict()) + 1)


def test_the_encoder_file_of_fgmae_is_the_encoder_and_its_table() -> None:
    """Its size is known to a megabyte: no decoder, no head."""
    net = on_meta(lambda: fgmae.FgMaeNet(FGMAE, decoder=False))
    assert abs(4 * numbers(net) - fgmae.ENCODER.bytes_about) < 1e6


def test_a_file_of_these_keys_has_the_published_size_of_vitmae() -> None:
    """The spelling of every key shows in the length of a safetensors header."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    net = on_meta(lambda: vitmae.VitMaeNet(vitmae.CONFIGS["vitmae.base"]))
    for key, tensor in sorted(net.state_dict().items()):
        end = offset + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":")))
    assert 8 + length + -length % 8 + offset == vitmae.CARDS["vitmae.base"].files[0].bytes
