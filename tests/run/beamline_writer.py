"""A beamline that writes a scan step by step: frames into LIMA files, then the entry, then its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from dfxm_dask.phantoms.beamline_files import CAMERA_DATA


def steps(finished: Path, out: Path, *, aborted: tuple[int, ...] = ()) -> Iterator[str]:
    """Write a copy of a finished scan; yields after every step of the writer, at which it may pause.

    Entries in ``aborted`` end after half of their frames.
    """
    with h5py.File(finished, "r", locking=False) as source:
        names = sorted((n for n in source if n.endswith(".1")), key=lambda n: int(n.split(".")[0]))
        out.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(out, "w", locking=False, libver="latest") as master:
            master.attrs.update({k: v for k, v in source.attrs.items() if k != "digest"})
            master.flush()
        yield "master"
        for number, name in enumerate(names, start=1):
            (camera,) = (
                g for g in source[name]["instrument"].values() if isinstance(g, h5py.Group) and "acq_parameters" in g
            )
            for piece in camera["data"].virtual_sources():
                yield from _lima(finished.parent / piece.file_name, out.parent / piece.file_name, number in aborted)
            with h5py.File(out, "a", locking=False, libver="latest") as master:
                source.copy(source[name], master, name, expand_soft=False, expand_external=False)
                master.flush()
                yield f"{name} begun"
                if number in aborted:
                    master[name]["end_reason"][()] = "USER_ABORT"
                master[name]["end_time"] = "2026-11-30T12:00:00+01:00"
            yield f"{name} ended"


def _lima(source: Path, target: Path, aborted: bool) -> Iterator[str]:
    target.parent.mkdir(exist_ok=True)
    with h5py.File(source, "r", locking=False) as old, h5py.File(target, "w", locking=False) as new:
        frames = old[CAMERA_DATA]
        count = len(frames) // 2 if aborted else len(frames)
        made = new.create_dataset(
            CAMERA_DATA,
            (count, *frames.shape[1:]),
            frames.dtype,
            chunks=(1, *frames.shape[1:]),
            **hdf5plugin.Bitshuffle(),
        )
        for k in range(count):
            made[k] = np.asarray(frames[k])
            new.flush()
            yield f"{target.name} frame {k}"
