"""Masks of defects against true lines and boundaries, in stacks with known walls.

``python scripts/evaluate/masks.py MAPS.zarr...`` reads stacks of ``bench/boundary_stacks.py`` made with --maps-only,
recomputes their masks from the contrast, and prints a line for each mask of each stack: F1 at 1 um against the lines,
precision to lines and to lines or boundaries, recall, share of the lit pixels; means over layers. Distances are in
space; lines of another simulator are straight.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from map_scores import mask_scores

from dfxm_dask.beams import threshold_beams
from dfxm_dask.rocking.rotation import WITH, classify_defects
from dfxm_dask.view.compare.distances import boundary_distance

COLUMNS = ("F1", "precision", "or boundary", "recall", "share")


def opened(path: Path) -> tuple[xr.Dataset, dict[str, Any], xr.DataTree]:
    """Maps of a stack, the truth of its planes and lines, and the store."""
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    beams = tree["beams"].to_dataset()[["weak_enhanced", "weak_isolated", "lit", "has_weak_beam"]]
    com = {n: v for n, v in tree["rocking"].to_dataset().items() if n.startswith("com_") or n == "flags"}
    truth = json.loads(path.with_name(path.name.replace("_maps.zarr", ".json")).read_text())
    return beams.assign(com).load(), truth, tree


def line_distance(truth: dict[str, Any], z: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance (um) of the pixels of a layer to the nearest of straight lines: (y, x)."""
    at = np.stack([*reversed(np.meshgrid(y, x, indexing="ij")), np.full((y.size, x.size), z)], axis=-1)
    nearest = np.full(at.shape[:2], np.inf)
    for point, line in zip(truth["dislocation_point"], truth["dislocation_line"], strict=True):
        nearest = np.minimum(
            nearest, np.linalg.norm(np.cross(at - point, np.array(line) / np.linalg.norm(line)), axis=-1)
        )
    return nearest


def masks_of(layer: xr.Dataset) -> dict[str, np.ndarray]:
    """Masks of one layer by name."""
    y, x = layer.y.values, layer.x.values
    enhanced, lit, has = (layer[n].values for n in ("weak_enhanced", "lit", "has_weak_beam"))
    isolated = layer.weak_isolated.values
    half = threshold_beams.kernel(enhanced, lit, y, x, has)
    recipe = threshold_beams.kernel(enhanced, lit, y, x, has, isolated)["defects"]
    com = {n.removeprefix("com_"): layer[n].values for n in layer if n.startswith("com_")}
    turning = classify_defects.kernel(recipe, com, y, x, layer.flags.values)["defects_rotation"] == WITH
    return {
        "all above the threshold": half["stands_out"],
        "half of the local maximum": half["defects"],
        "mask of the recipe": recipe,
        "its part with rotation": turning,
    }


def rows_of(path: Path) -> dict[str, dict[str, float]]:
    """Scores of each mask of a stack, means over layers."""
    maps, truth, tree = opened(path)
    y, x = maps.y.values, maps.x.values
    planes = {"dihedral": [np.nan] * len(truth.get("normal", ()))} | truth
    planes["dihedral"] = np.array(planes["dihedral"], float)
    every: dict[str, list[dict[str, float]]] = {}
    for k, z in enumerate(maps.z.values):
        layer = maps.isel(z=k)
        away = tree["truth"].distance[k].values if "truth" in tree else line_distance(truth, z, y, x)
        boundary = boundary_distance(planes, float(z), y, x)
        for name, mask in masks_of(layer).items():
            found = mask_scores(mask, layer.lit.values, away, boundary, (y[1] - y[0], x[1] - x[0]))
            every.setdefault(name, []).append(found | {"share": float(mask[layer.lit.values].mean())})
    return {name: {c: float(np.nanmean([r[c] for r in rows])) for c in COLUMNS} for name, rows in every.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="+", type=Path)
    print("| stack | mask | " + " | ".join(COLUMNS) + " |\n|---|---|" + "---:|" * len(COLUMNS))
    for path in parser.parse_args().stacks:
        for name, row in rows_of(path).items():
            print(
                f"| {path.name.removesuffix('_maps.zarr')} | {name} | "
                + " | ".join(f"{row[c]:.3f}" for c in COLUMNS)
                + " |"
            )


if __name__ == "__main__":
    main()
