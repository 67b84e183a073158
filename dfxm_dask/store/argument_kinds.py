"""Checks of the arguments of an ingest: an argument of the wrong kind is refused, with the correct form."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfxm_dask.errors import InputError


def refuse_other_kinds(scan: Any, roi: Any, pixel_size: Any, z: Any) -> None:
    """Refuse a number in place of a list or a text, and lists of the wrong length.

    Raises
    ------
    InputError
    """
    listed = [scan] if isinstance(scan, str) or scan is None else scan if _is_list(scan) else [scan]
    if any(not isinstance(entry, str | None) for entry in listed):
        # 1.10 and 1.1 are one number and two entries.
        raise InputError("scan", f"is {scan!r}", "write entries as text: scan='1.1', '1.1,2.1' or 'all'")
    if pixel_size is not None and not (_is_list(pixel_size) and len(pixel_size) == 2 and _numbers(pixel_size)):
        size = f"pixel_size=({pixel_size}, {pixel_size})" if _numbers([pixel_size]) else "pixel_size=(0.2, 0.06)"
        raise InputError("pixel_size", f"is {pixel_size!r:.80}", f"give two lengths in um, along y and along x: {size}")
    if roi is not None and not (_is_list(roi) and len(roi) == 4 and _numbers(roi)):
        raise InputError("roi", f"is {roi!r:.80}", "give four pixel numbers: roi=(y0, y1, x0, x1)")
    if z is not None and not (_is_list(z) and _numbers(z)):
        position = f"z=[{z}]" if _numbers([z]) else "z=[0.0, 1.0]"
        raise InputError("z", f"is {z!r:.80}", f"give a list of positions in um: {position}")


def check_roi(roi: Any, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """A region (y0, y1, x0, x1) of a frame, as four pixel numbers.

    Raises
    ------
    InputError
        The region exceeds the frame.
    """
    if roi is None:
        return None
    y0, y1, x0, x1 = (int(v) for v in roi)
    if not (0 <= y0 < y1 <= shape[0] and 0 <= x0 < x1 <= shape[1]):
        raise InputError(
            f"roi y {y0}:{y1}, x {x0}:{x1}",
            f"exceeds the frame of {shape[0]} x {shape[1]}",
            "choose a region within the frame",
        )
    return y0, y1, x0, x1


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _numbers(values: Any) -> bool:
    return all(isinstance(v, int | float | np.number) and not isinstance(v, bool | np.complexfloating) for v in values)
