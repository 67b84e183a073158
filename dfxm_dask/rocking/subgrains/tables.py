"""From segments of all layers to the tables of regions and of the boundaries between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.gaps import neighbouring
from dfxm_dask.reduction import Arrays
from dfxm_dask.rocking.subgrains.merging import merged
from dfxm_dask.schema import XYZ, Dim, Variable

R, B = "region_id", "boundary_id"
THRESHOLD = Variable("step_threshold", (), "float64", "degree", "least step of the orientation between two regions")
REGION_TABLE = (
    Variable("region_voxels", (R,), "int64", "1", "number of voxels of the region"),
    Variable("region_volume", (R,), "float64", "um3", "volume of the region"),
    Variable("region_layers", (R,), "int64", "1", "number of layers that the region reaches"),
    Variable("region_centroid", (R, XYZ), "float64", "um", "centroid of the region"),
    Variable("region_com_{axis}", (R,), "float64", "{units}", "mean {axis} of the region"),
    Variable("region_com_{axis}_error", (R,), "float64", "{units}", "standard error of the mean {axis} of the region"),
    Variable("region_spread_{axis}", (R,), "float64", "{units}", "standard deviation of {axis} within the region"),
)
BOUNDARY_TABLE = (
    Variable("boundary_region", (B, Dim("side", 2)), "int32", "1", "numbers of the regions on both sides"),
    Variable("boundary_area", (B,), "float64", "um2", "area of the boundary between two regions"),
    Variable("boundary_trace", (B,), "float64", "um", "length of the boundary in all layers together"),
    Variable("boundary_step_{axis}", (B,), "float64", "{units}", "step of {axis} from the first to the second region"),
    Variable(
        "boundary_step_{axis}_error", (B,), "float64", "{units}", "standard error of the step of {axis} at the boundary"
    ),
    Variable("boundary_misorientation", (B,), "float64", "degree", "misorientation of two regions at the boundary"),
    Variable(
        "boundary_misorientation_error", (B,), "float64", "degree", "standard error of the boundary misorientation"
    ),
)
TYPICAL, LEAST = 3.3, 1e-3
"""Default threshold: the first times the step of the gradient over twice the distance, at least the second in
degree (our choice, from simulated layers; see :func:`dfxm_dask.link_segments`)."""
SHARE = 0.5  # of the smaller of two segments of neighbouring layers, over which both must overlap (our choice)


class Contacts(NamedTuple):
    """Contacts of segments, all numbered over the whole stack.

    Attributes
    ----------
    pair : array (contact, 2), int64
    layer : array (contact,), int64
    faces : array (contact, 2), um
        Signed lengths of a contact in a layer; 0 for an overlap.
    pixels : array (contact,), int64
        Pixels of an overlap with the previous layer; 0 for a contact in a layer.
    weight : array (contact,)
    step, full_step : array (contact, axis), degree
        Mean step from the first to the second segment, of the smoothed orientation and of the orientation itself.
    """

    pair: np.ndarray
    layer: np.ndarray
    faces: np.ndarray
    pixels: np.ndarray
    weight: np.ndarray
    step: np.ndarray
    full_step: np.ndarray


def linked(summary: Arrays) -> Arrays:
    """Regions and boundaries from the segments of all layers and from their contacts."""
    z, counts, sums = summary["z"], summary["count"], summary["sums"]
    starts = np.cumsum(counts) - counts
    steps = np.abs(np.diff(z))
    thick = float(np.median(steps)) if steps.size else np.nan
    pixel = summary["pixel"]
    asked, distance, depth, least_area = summary["asked"].tolist()
    contacts = _contacts(summary, starts, neighbouring(z))
    gradient = summary["gradient"][np.isfinite(summary["gradient"])]
    usual = TYPICAL * 2 * distance * float(np.median(gradient)) if gradient.size else 0.0
    threshold = max(usual, LEAST) if np.isnan(asked) else asked

    height = thick if np.isfinite(thick) else 1.0
    area = np.hypot(*contacts.faces.T) * height + contacts.pixels * np.prod(pixel)
    smaller = np.minimum(*sums[:, 0][contacts.pair.T]) if len(contacts.pair) else np.zeros(0)
    used = (contacts.pixels == 0) | (contacts.pixels >= SHARE * smaller)
    weight = np.where(contacts.pixels > 0, contacts.pixels * np.prod(pixel), contacts.weight * height)
    member = merged(
        contacts.pair[used],
        area[used],
        weight[used],
        contacts.step[used] * weight[used, None],
        sums[:, 0] * np.prod(pixel) * height,
        threshold,
        depth,
    )
    number = _kept(member, sums[:, 0] * np.prod(pixel), np.repeat(np.arange(len(z)), counts), least_area)
    return {
        "segment_region": number.astype(np.int32),
        "segment_start": starts,
        "segment_count": counts,
        "step_threshold": np.array(threshold),
        **_region_table(number, summary, thick),
        **_boundary_table(number, contacts, summary, thick),
    }


def _contacts(summary: Arrays, starts: np.ndarray, near: np.ndarray) -> Contacts:
    """Contacts within layers, then overlaps of neighbouring layers."""
    inside = np.repeat(np.arange(len(starts)), summary["pairs"])
    above = np.repeat(np.arange(len(starts)), summary["overs"])
    over = near[above] if len(above) else np.zeros(0, bool)
    above = above[over]
    first = summary["over"][over]
    second = first[:, 1] + starts[np.maximum(above - 1, 0)]
    pixels = summary["over_pixels"][over]
    with np.errstate(invalid="ignore", divide="ignore"):
        steps, full = (summary[name] / summary["weight"][:, None] for name in ("step", "full_step"))
        over_steps = -summary["over_step"][over] / pixels[:, None]  # from the layer to the one before
    return Contacts(
        np.concatenate(
            [summary["pair"] + starts[inside, None], np.stack([first[:, 0] + starts[above], second], axis=1)]
        ).astype(np.int64),
        np.concatenate([inside, above]),
        np.concatenate([summary["faces"], np.zeros((len(above), 2))]),
        np.concatenate([np.zeros(len(inside), np.int64), pixels]),
        np.concatenate([summary["weight"], pixels.astype(np.float64)]),
        np.concatenate([steps, over_steps]),
        np.concatenate([full, over_steps]),
    )


def _kept(member: np.ndarray, area: np.ndarray, layer: np.ndarray, least: float) -> np.ndarray:
    """Number of the region of each segment from 1; 0 for regions without pixels or below the least area."""
    if not len(member):
        return np.zeros(0, np.int64)
    key, place = np.unique(np.stack([member, layer]), axis=1, return_inverse=True)
    largest = np.zeros(int(member.max()) + 1)
    np.maximum.at(largest, key[0], np.bincount(place.ravel(), area))
    kept = (largest > 0) & (largest >= least * (1 - 1e-9))
    return np.where(kept, np.cumsum(kept), 0)[member]


def _region_table(number: np.ndarray, summary: Arrays, thick: float) -> Arrays:
    """Size, position, mean and spread of each region."""
    count = int(number.max(initial=0))
    inside, row = number > 0, number[number > 0] - 1
    sums = summary["sums"][inside]
    height = np.repeat(summary["z"], summary["count"])[inside]
    layer = np.repeat(np.arange(len(summary["z"])), summary["count"])[inside]

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, values, count).astype(np.float64)

    pixels = total(sums[:, 0])
    table = {
        "region_voxels": np.rint(pixels).astype(np.int64),
        "region_volume": pixels * np.prod(summary["pixel"]) * thick,
        "region_layers": np.bincount(
            np.unique(np.stack([row, layer])[:, sums[:, 0] > 0], axis=1)[0], minlength=count
        ).astype(np.int64),
        "region_centroid": np.stack(
            [total(sums[:, 1]) / pixels, total(sums[:, 2]) / pixels, total(sums[:, 0] * height) / pixels], axis=1
        ),
    }
    for k, axis in enumerate(summary["axes"].tolist()):
        middle, scatter, noise = sums[:, 3 + 3 * k], sums[:, 4 + 3 * k], sums[:, 5 + 3 * k]
        mean = total(sums[:, 0] * middle) / pixels
        spread = total(scatter + sums[:, 0] * (middle - mean[row]) ** 2) / pixels
        table |= {
            f"region_com_{axis}": mean,
            f"region_com_{axis}_error": np.sqrt(total(noise)) / pixels,
            f"region_spread_{axis}": np.sqrt(spread),
        }
    return table


def _boundary_table(number: np.ndarray, contacts: Contacts, summary: Arrays, thick: float) -> Arrays:
    """Regions on both sides, area, step and misorientation of each boundary."""
    axes = summary["axes"].tolist()
    sides = number[contacts.pair] if len(contacts.pair) else np.zeros((0, 2), np.int64)
    wall = (sides[:, 0] != sides[:, 1]) & (sides > 0).all(axis=1)
    sign = np.where(sides[:, 0] < sides[:, 1], 1.0, -1.0)[wall]
    pairs, row = np.unique(np.sort(sides[wall], axis=1), axis=0, return_inverse=True)
    row, count = row.ravel(), len(pairs)
    trace = np.hypot(*contacts.faces[wall].T)
    beside = contacts.pixels[wall] == 0
    per_layer, place = np.unique(np.stack([row, contacts.layer[wall]]), axis=1, return_inverse=True)
    flat = np.bincount(place.ravel(), contacts.pixels[wall] * sign, per_layer.shape[1]) * np.prod(summary["pixel"])
    upright = np.bincount(place.ravel(), trace, per_layer.shape[1]) * thick
    table: Arrays = {
        "boundary_region": pairs.astype(np.int32),
        "boundary_area": np.bincount(per_layer[0], np.hypot(upright, flat), count).astype(np.float64),
        "boundary_trace": np.bincount(row, trace, count).astype(np.float64),  # integers without any boundary
    }
    # The step is that of contacts in layers; overlaps count only for a boundary between layers.
    known = np.isfinite(contacts.full_step[wall]).all(axis=1)
    within = np.bincount(row, (beside & known).astype(float), count) > 0
    used = known & (beside == within[row])
    weight = np.where(used, contacts.weight[wall], 0.0)
    parts = np.bincount(row, used.astype(float), count)
    mass = np.bincount(row, weight, count)
    means, errors = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for k, axis in enumerate(axes):
            value = np.where(used, contacts.full_step[wall, k] * sign, 0.0)
            mean = np.bincount(row, weight * value, count) / mass
            off = np.bincount(row, (weight * (value - mean[row])) ** 2, count) * parts / (parts - 1)
            means.append(np.where(mass > 0, mean, np.nan))
            errors.append(np.where(parts > 1, np.sqrt(off) / mass, np.nan))
            table |= {f"boundary_step_{axis}": means[-1], f"boundary_step_{axis}_error": errors[-1]}
        size = np.asarray(np.sqrt(np.sum(np.square(means), axis=0)))
        table["boundary_misorientation"] = size
        table["boundary_misorientation_error"] = np.sqrt(np.sum(np.square(np.multiply(means, errors)), axis=0)) / size
    return table
