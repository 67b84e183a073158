"""Labels of frames from a file, and their scans.

A file of labels is a YAML list of entries, or CSV with the same keys as columns:

.. code-block:: yaml

    - {z: 12.0, phi: 0.0123, box: [0, 640, 0, 512], class: weak}     # y0, y1, x0, x1 in pixels; y1 and x1 excluded
    - {z: 12.0, phi: 0.0301, class: strong}                          # the whole frame

.. code-block:: text

    z,phi,y0,y1,x0,x1,class
    12.0,0.0123,0,640,0,512,weak
    12.0,0.0301,,,,,strong

z is in um, scan axes are in their units, and a class is weak, strong, unlit or ambiguous (left out of the training).
``store`` names the scan if there are several.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from dfxm_dask.beams.network.labels import DRAWN, LabelledBox, box_labels, check_taught, nearest_index
from dfxm_dask.errors import InputError, RecipeError
from dfxm_dask.plain_yaml import entries, parse_yaml, place, plain, read_text, scalar
from dfxm_dask.schema import nearest
from dfxm_dask.store.scan import open_scan

if TYPE_CHECKING:
    import xarray as xr

HELP = "list entries such as {z: 12.0, phi: 0.0123, box: [0, 640, 0, 512], class: weak}, or these keys as columns"

Frames = dict[tuple[int, int], dict[int, list[LabelledBox]]]
"""Boxes by scan and layer, then by frame in scan order."""


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A scan of the training data, with its name in labels and results, and its groups."""

    path: Path
    tree: xr.DataTree

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def counts(self) -> xr.DataArray:
        return self.tree["raw"].dataset["counts"]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(str(d) for d in self.counts.dims[1:-2])

    @property
    def shape(self) -> tuple[int, int]:
        return self.counts.shape[-2], self.counts.shape[-1]

    @property
    def positions(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(self.counts[name], np.float64) for name in self.axes}


def open_scans(stores: Sequence[str | Path]) -> list[LabelledScan]:
    """Open the stores of the training data.

    Raises
    ------
    InputError
        No store, a store twice, or a store without raw counts.
    """
    if not stores:
        raise InputError("training", "no store is given", "name at least one store")
    paths = [Path(p) for p in stores]
    if len({p.resolve() for p in paths}) < len(paths):
        raise InputError("training", "a store is named twice", "name every store once")
    scans = [LabelledScan(p, open_scan(p, chunks=None)) for p in paths]
    for scan in scans:
        if "raw" not in scan.tree or "counts" not in scan.tree["raw"].data_vars:
            raise InputError(f"training on {scan.path}", "it has no raw counts", "give the store of an ingest")
    return scans


def read_labels(path: str | Path, axes: Sequence[str]) -> list[LabelledBox]:
    """The entries of a file of labels.

    Parameters
    ----------
    path : path
        A CSV file if its name ends in .csv, else YAML.
    axes : sequence of str
        Scan axes that an entry may name in addition to z.

    Raises
    ------
    InputError
        The file cannot be read or has no entry; an entry has an unknown key, an invalid number, or no class
        or position. The text starts with file and line.
    """
    path = Path(path)
    try:
        text = read_text(path)
        rows = list(_csv_rows(text, path) if path.suffix.lower() == ".csv" else _yaml_rows(text, path))
    except RecipeError as error:
        raise InputError(error.asked, error.found, HELP) from None
    if not rows:
        raise InputError(f"{path}:1", "has no labels", HELP)
    return [_entry(words, line, path, axes) for line, words in rows]


def _yaml_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    node = parse_yaml(text, path)
    if not isinstance(node, yaml.SequenceNode):
        raise InputError(f"{place(path, node)}: labels", "are not a list", HELP)
    for entry in node.value:
        found = entries(entry, path, "a label")
        yield entry.start_mark.line + 1, {word: plain(value, path) for word, (_, value) in found.items()}


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.reader(text.splitlines(), strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for cells in rows:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                if len(set(header)) < len(header) or "" in header:
                    raise InputError(
                        f"{path}:{rows.line_num}: header", "has a column twice or a column without a name", HELP
                    )
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}:{rows.line_num}", f"has {len(cells)} cells, but the header has {len(header)}", HELP
                )
            # Cells are resolved as in a YAML file, except names of scans and classes.
            words: dict[str, Any] = {
                word: cell if word in ("class", "store") else scalar(cell)
                for word, cell in zip(header, cells, strict=True)
                if cell
            }
            edges = [words.pop(word, None) for word in ("y0", "y1", "x0", "x1")]
            yield rows.line_num, words | ({} if edges == [None] * 4 else {"box": edges})
    except (csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}:{rows.line_num}", f"is not CSV ({error})", HELP) from None


def _number(value: Any, where: str, whole: bool = False) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or (whole and not number.is_integer()):
        raise InputError(where, f"is {value!r}", f"give a {'whole ' if whole else ''}number")
    return number


def _entry(words: Mapping[str, Any], line: int, path: Path, axes: Sequence[str]) -> LabelledBox:
    """One entry after all checks that do not depend on the scan."""
    where, known = f"{path}:{line}", ("z", *axes, "box", "class", "store")
    for word in words:
        if word not in known:
            raise InputError(f"{where}: {word!r}", f"is unknown{nearest(word, known)}", f"use {', '.join(known)}")
    for word in ("z", "class"):
        if words.get(word) is None:
            raise InputError(f"{where}: {word!r}", "is missing", HELP)
    if not isinstance(words["class"], str) or words["class"] not in DRAWN:
        raise InputError(
            f"{where}: class {words['class']!r}",
            f"is unknown{nearest(str(words['class']), DRAWN)}",
            f"use {', '.join(DRAWN)}",
        )
    positions = {word: _number(words[word], f"{where}: {word!r}") for word in ("z", *axes) if word in words}
    box = words.get("box")
    if box is not None:
        if not isinstance(box, list) or len(box) != 4:
            raise InputError(f"{where}: box", f"is {box!r}", "give [y0, y1, x0, x1] in pixels")
        box = tuple(int(_number(edge, f"{where}: box", whole=True)) for edge in box)
    return LabelledBox(line, words["class"], positions, box, str(words.get("store") or ""))


def place_labels(boxes: Sequence[LabelledBox], scans: Sequence[LabelledScan], path: Path) -> Frames:
    """The frame of every entry of a file of labels.

    Raises
    ------
    InputError
        An entry matches no scan or several scans, lacks a position along an axis, or is more than half a step away from
        all positions; a box extends beyond the frame; or classes contradict each other. The text names file and line.
    """
    found: Frames = {}
    for one in boxes:
        where = f"{path}:{one.line}"
        wanted = [k for k, s in enumerate(scans) if one.store in (s.name, s.path.stem, str(s.path)) or not one.store]
        if len(wanted) != 1:
            names = ", ".join(s.name for s in scans)
            what = f"store {one.store!r}" if one.store else "'store'"
            why = "is missing" if not one.store else "matches no scan" if not wanted else "matches several scans"
            raise InputError(f"{where}: {what}", f"{why}: {names}", "name one of the scans, if necessary by its path")
        scan = scans[wanted[0]]
        lacking = [axis for axis in scan.axes if axis not in one.positions]
        foreign = [axis for axis in one.positions if axis not in ("z", *scan.axes)]
        if lacking or foreign:
            word = (lacking or foreign)[0]
            why = "is missing" if lacking else f"is not an axis of {scan.name}"
            raise InputError(f"{where}: {word!r}", why, f"give {', '.join(('z', *scan.axes))}")
        at = {
            axis: nearest_index(
                one.positions[axis],
                np.asarray(scan.counts[axis]),
                f"{where}: {axis}",
                scan.counts[axis].attrs.get("units", ""),
            )
            for axis in ("z", *scan.axes)
        }
        lengths = [scan.counts.sizes[axis] for axis in scan.axes]
        frame = int(np.ravel_multi_index([at[axis] for axis in scan.axes], lengths)) if lengths else 0
        found.setdefault((wanted[0], at["z"]), {}).setdefault(frame, []).append(one)
    for (k, _), frames in found.items():
        for drawn in frames.values():
            label = box_labels(drawn, scans[k].shape, source=str(path))  # refuse before pixels are read
            check_taught(drawn, label, scans[k].shape, source=str(path))
    return found
