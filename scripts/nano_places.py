"""Write docs/nano-data.json: which file, of which licence, is in which of three disjoint sets of places.

    python scripts/nano_places.py IMAGERY_FOLDER

IMAGERY_FOLDER holds the files at the relative paths listed below. `pretrain` and `fit` take permissive sources only
(CC0, CC-BY, MIT, Apache, CDLA-Permissive, plain Copernicus): what ships is made from them. `test` places may carry any licence that
allows reading: nothing made from them ships. A repository without a licence is not permissive, whatever its imagery is
(Sen1Floods11 was taken out for that). The split is written out by hand so that neighbours stay together.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

S2_12 = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
S2_13 = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12"
EUROSAT = "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A"
DSEN2 = "B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09"

# set, source, licence, level, bands in file order, [(path, place, offset DN)]
GROUPS = [
    (
        "pretrain",
        "microsoft/satclip S2-100K sample",
        "MIT",
        "L2A",
        S2_12,
        [
            (f"train/satclip_s2_100k/patch_{n}.tif", f"satclip_{n}", o)
            for n, o in [
                (33188, 0),
                (8845, 1000),
                (252161, 1000),
                (25630, 0),
                (286743, 0),
                (502692, 0),
                (526850, 0),
                (57755, 1000),
                (61808, 0),
                (70975, 0),
                (75123, 1000),
            ]
        ],
    ),
    (
        "fit",
        "microsoft/satclip S2-100K sample",
        "MIT",
        "L2A",
        S2_12,
        [
            (f"train/satclip_s2_100k/patch_{n}.tif", f"satclip_{n}", o)
            for n, o in [
                (445, 1000),
                (275979, 0),
                (322265, 0),
                (511198, 0),
                (566084, 0),
                (58000, 0),
                (70541, 1000),
                (74721, 1000),
                (752389, 0),
            ]
        ],
    ),
    (
        "test",
        "microsoft/satclip S2-100K sample",
        "MIT",
        "L2A",
        S2_12,
        [
            (f"train/satclip_s2_100k/patch_{n}.tif", f"satclip_{n}", o)
            for n, o in [(759128, 1000), (766272, 1000), (770287, 1000)]
        ],
    ),
    (
        "pretrain",
        "HydroCorpus sample",
        "MIT",
        "L2A",
        S2_12,
        [("train/hydro/patch_0.tif", "hydro_0", 1000), ("train/hydro/patch_100.tif", "hydro_100", 1000)],
    ),
    (
        "fit",
        "HydroCorpus sample",
        "MIT",
        "L2A",
        S2_12,
        [
            ("train/hydro/patch_1.tif", "hydro_1", 1000),
            ("train/hydro/patch_10.tif", "hydro_10", 0),
            ("train/hydro/patch_10000.tif", "hydro_10000", 1000),
        ],
    ),
    (
        "test",
        "HydroCorpus sample",
        "MIT",
        "L2A",
        S2_12,
        [("train/hydro/patch_1000.tif", "hydro_1000", 1000), ("train/hydro/patch_100000.tif", "hydro_100000", 1000)],
    ),
    (
        "pretrain",
        "openEO iCOR reference",
        "Apache-2.0",
        "L1C",
        "B02 B03 B04 B08 B8A B11",
        [("train/openeo_icor_belgium/ref_input_S2.tif", "belgium_mol", 0)],
    ),
    (
        "pretrain",
        "Fields of the World sample",
        "MIT",
        "L2A",
        "B04 B03 B02 B08 - - - -",
        [("train/ftw_austria/inference_img_2windows.tif", "austria_33UUP", 0)],
    ),
    (
        "pretrain",
        "Fields of the World sample",
        "MIT",
        "L2A",
        "- - - - B04 B03 B02 B08",
        [("train/ftw_austria/inference_img_2windows.tif", "austria_33UUP", 0)],
    ),
    (
        "pretrain",
        "satsense",
        "Apache-2.0",
        "L2A",
        "B02 B03 B04 B08",
        [("train/satsense_bangalore/section_2_sentinel.tif", "bangalore", 0)],
    ),
    (
        "pretrain",
        "satsense",
        "Apache-2.0",
        "L1C",
        "B02 B03 B04 B08",
        [("train/satsense_bangalore/section_2_sentinel_l1c.tif", "bangalore", 0)],
    ),
    (
        "pretrain",
        "BigEarthNet v2",
        "CDLA-Permissive-1.0",
        "L2A",
        S2_12,
        [("train/bigearthnet/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43.tif", "austria_33UUP", 0)],
    ),
    (
        "fit",
        "BigEarthNet",
        "CDLA-Permissive-1.0",
        "L2A",
        S2_12,
        [("train/bigearthnet/S2A_MSIL2A_20170617T113321_36_85.tif", "ireland_36_85", 0)],
    ),
    (
        "pretrain",
        "EuroSAT",
        "MIT",
        "L1C",
        EUROSAT,
        [(f"train/eurosat_ms/{n}.tif", f"eurosat_{n}", 0) for n in ("AnnualCrop_1", "AnnualCrop_3", "Forest_1")],
    ),
    (
        "fit",
        "EuroSAT",
        "MIT",
        "L1C",
        EUROSAT,
        [(f"train/eurosat_ms/{n}.tif", f"eurosat_{n}", 0) for n in ("Pasture_300", "Forest_2", "AnnualCrop_2")],
    ),
    (
        "test",
        "EuroSAT",
        "MIT",
        "L1C",
        EUROSAT,
        [(f"train/eurosat_ms/{n}.tif", f"eurosat_{n}", 0) for n in ("SeaLake_3000", "Forest_3")],
    ),
    (
        "fit",
        "SSL4EO-S12 sample",
        "CC-BY-4.0",
        "L1C",
        S2_13,
        [
            (f"change/ssl4eo_0000200/s2c_{n}.tif", "ssl4eo_0000200", 0)
            for n in ("20200604T054639_20200604T054831_T43RCP", "20200823T054639_20200823T055618_T43RCP")
        ],
    ),
    (
        "fit",
        "SSL4EO-S12 sample",
        "CC-BY-4.0",
        "L2A",
        S2_12,
        [
            (f"change/ssl4eo_0000200/s2a_{n}.tif", "ssl4eo_0000200", 0)
            for n in ("20200604T054639_20200604T054831_T43RCP", "20200813T054639_20200813T054952_T43RCP")
        ],
    ),
    (
        "fit",
        "Copernicus-FM sample",
        "CC-BY-4.0",
        "L1C",
        S2_13,
        [("train/copernicusfm_nz/20201002T221611_T60HWB_L1C.tif", "nz_T60HWB", 0)],
    ),
    (
        "fit",
        "EOTDL roads sample",
        "MIT",
        "L2A",
        S2_12,
        [("train/eotdl/s2_roads_massachusetts.tif", "massachusetts", 0)],
    ),
    (
        "test",
        "TerraMesh sample",
        "CC-BY-SA-4.0",
        "L1C",
        S2_13,
        [
            (f"train/terramind/{n}_S2L1C.tif", f"terramind_{n}", o)
            for n, o in [
                ("282D_485L_3_3", 1000),
                ("38D_378R_2_3", 0),
                ("433D_629L_3_1", 1000),
                ("609U_541L_3_0", 1000),
                ("637U_59R_1_3", 0),
            ]
        ],
    ),
    (
        "test",
        "TerraMesh sample",
        "CC-BY-SA-4.0",
        "L2A",
        S2_12,
        [
            (f"train/terramind/{n}_S2L2A.tif", f"terramind_{n}", o)
            for n, o in [
                ("282D_485L_3_3", 0),
                ("38D_378R_2_3", 0),
                ("433D_629L_3_1", 1000),
                ("609U_541L_3_0", 0),
                ("637U_59R_1_3", 0),
            ]
        ],
    ),
    (
        "test",
        "Major-TOM sample",
        "CC-BY-SA-4.0",
        "L2A",
        S2_12,
        [("train/majortom/199U_1099R_S2L2A.tif", "majortom_199U_1099R", 0)],
    ),
    (
        "test",
        "DSen2 demo scenes",
        "GPL-3 repository; Copernicus data",
        "L1C",
        DSEN2,
        [
            ("train/dsen2/S2A_MSIL1C_20170527_T33UUB_600px.tif", "dsen2_33UUB", 0),
            ("train/dsen2/S2B_MSIL1C_20171022_T49JGM_600px.tif", "dsen2_49JGM", 0),
        ],
    ),
]


def main(root: Path) -> None:
    index = {row["path"]: row for row in json.loads((root / "index.json").read_text())}
    rows = []
    for chosen, source, licence, level, bands, files in GROUPS:
        for path, place, offset in files:
            rows.append(
                {
                    "set": chosen,
                    "place": place,
                    "path": path,
                    "source": source,
                    "licence": licence,
                    "level": level,
                    "bands": bands.split(),
                    "offset_dn": offset,
                    "lonlat": index[path].get("lonlat"),
                    "origin": index[path]["source"],
                    "sha256": hashlib.sha256((root / path).read_bytes()).hexdigest(),
                }
            )
    sets = {name: {r["place"] for r in rows if r["set"] == name} for name in ("pretrain", "fit", "test")}
    for one, other in (("pretrain", "fit"), ("pretrain", "test"), ("fit", "test")):
        if sets[one] & sets[other]:
            raise SystemExit(f"places in both {one} and {other}: {sets[one] & sets[other]}")
    out = Path(__file__).parents[1] / "docs" / "nano-data.json"
    card = {
        "credit": "contains modified Copernicus Sentinel data 2015-2023",
        "note": "offset_dn is subtracted before scaling by 1/10000. Where a source states no processing baseline it was read "
        "from the darkest pixels (cirrus and SWIR bands near 1000 instead of near 0). lonlat null: not recorded. origin says where the file lies upstream; "
        "sha256 is of the file as used: pixels unchanged, some rewritten as deflated GeoTIFF with 20 and 60 m bands repeated "
        "onto the 10 m grid. Licences of BigEarthNet, EuroSAT and SSL4EO-S12 were read from their publishers; those of the "
        "others are their repositories'.",
        "files": rows,
    }
    out.write_text(json.dumps(card, indent=1) + "\n")
    print({name: len(places) for name, places in sets.items()}, "places;", len(rows), "files ->", out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
