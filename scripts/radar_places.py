"""Write docs/radar-data.json: the Sentinel-1 files that evaluation reads. Nothing made from them ships.

    python scripts/radar_places.py IMAGERY_FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import rasterio
from rasterio.warp import transform

# source, licence, level, [(path, place)]
GROUPS = [
    (
        "TerraMesh sample",
        "CC-BY-SA-4.0",
        "RTC",
        [
            (f"train/terramind/{n}_S1RTC.tif", f"terramind_{n}")
            for n in ("282D_485L_3_3", "38D_378R_2_3", "433D_629L_3_1", "609U_541L_3_0", "637U_59R_1_3")
        ],
    ),
    (
        "BigEarthNet",
        "CDLA-Permissive-1.0",
        "GRD",
        [("train/bigearthnet/S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48.tif", "bigearthnet_33UUP")],
    ),
    (
        "SSL4EO-S12 sample",
        "CC-BY-4.0",
        "GRD",
        [
            (f"change/ssl4eo_0000200/s1_S1A_IW_GRDH_1SDV_{t}.tif", "ssl4eo_0000200")
            for t in ("20200607T010800", "20200903T131212")
        ],
    ),
    (
        "Sen1Floods11",
        "CC-BY-4.0 (data)",
        "GRD",
        [
            (f"change/sen1floods11/{n}_S1.tif", f"sen1floods11_{n}")
            for n in (
                "Ghana_53713", "Ghana_83483", "Ghana_97059", "India_900498", "Mekong_333434", "Nigeria_812045",
                "Pakistan_849790", "Somalia_699062", "Spain_6860600", "Spain_7370579", "Sri-Lanka_534068", "USA_905409",
            )
        ],
    ),
]  # fmt: skip


def main(root: Path) -> None:
    files = []
    for source, licence, level, members in GROUPS:
        for path, place in members:
            with rasterio.open(root / path) as file:
                west, south, east, north = file.bounds
                (lon,), (lat,) = transform(file.crs, "EPSG:4326", [(west + east) / 2], [(south + north) / 2])
            digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
            files.append({
                "place": place, "path": path, "source": source, "licence": licence, "level": level,
                "lonlat": [round(lon, 5), round(lat, 5)], "sha256": digest,
            })  # fmt: skip
    text = json.dumps({"unit": "dB; gamma0 (RTC) or sigma0 (GRD) as each file states", "files": files}, indent=1)
    (Path(__file__).parents[1] / "docs" / "radar-data.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
