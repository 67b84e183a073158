"""Boxes drawn in the page, kept in the labels file beside a store."""

from __future__ import annotations

import getpass
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from dfxm_dask.beams.network.labels import LabelledBox
from dfxm_dask.errors import InputError
from dfxm_dask.run.labels import LabelledScan, place_labels, read_labels
from dfxm_dask.store.integrity.files import replace_file
from dfxm_dask.view.browser.catalogue import Shown

MOST = 10_000


def labels_path(store: Path) -> Path:
    """The labels file of a store: beside it, for a store contains only results of its steps."""
    return store.resolve().with_name(store.resolve().name + ".labels.yaml")


def stored_labels(shown: Shown) -> dict[str, Any]:
    """Entries of the labels file, and a digest of the file that a change must name."""
    path = labels_path(shown.path)
    if not path.exists():
        return {"entries": [], "digest": "", "path": str(path)}
    axes = [d for d in shown.image("raw/counts").dims if d not in ("z", "y", "x")]
    entries = [_entry(one) for one in read_labels(path, axes) if _ours(one, shown)]
    return {"entries": entries, "digest": _digest(path), "path": str(path)}


def _ours(one: LabelledBox, shown: Shown) -> bool:
    return one.store in ("", shown.path.name, shown.path.stem, str(shown.path), str(shown.path.resolve()))


def _entry(one: LabelledBox) -> dict[str, Any]:
    """An entry as in the file."""
    box = {"box": list(one.box)} if one.box else {}
    return {**one.positions, **box, "class": one.kind, **({"store": one.store} if one.store else {})}


def store_labels(shown: Shown, entries: Any, before: str) -> dict[str, Any]:
    """Replace the entries of the labels file that are of this store.

    Parameters
    ----------
    entries : list of dict
        ``z``, scan axes, ``box`` and ``class``, as in the file.
    before : str
        Digest of the file that the page has read.

    Raises
    ------
    InputError
        An entry that the command ``train`` would refuse, or another page has changed the file.
    """
    path = labels_path(shown.path)
    if before != (_digest(path) if path.exists() else ""):
        raise InputError("labels", "were changed by another page or program", "load them again, then repeat your box")
    if not isinstance(entries, list) or len(entries) > MOST or not all(isinstance(e, dict) for e in entries):
        raise InputError("labels", "are not a list of boxes", f"send at most {MOST} entries")
    axes = [d for d in shown.image("raw/counts").dims if d not in ("z", "y", "x")]
    others = [_entry(one) for one in read_labels(path, axes) if not _ours(one, shown)] if path.exists() else []
    if not entries and not others:
        path.unlink(missing_ok=True)
        return stored_labels(shown)
    who = f"# Drawn in dfxm-dask view by {getpass.getuser()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n"
    text = who + yaml.safe_dump([*entries, *others], default_flow_style=None, sort_keys=False, allow_unicode=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft.yaml")
    draft.write_text(text, encoding="utf-8")
    try:
        scan = LabelledScan(shown.path, shown.tree)
        drawn_here = [one for one in read_labels(draft, scan.axes) if _ours(one, shown)]
        place_labels(drawn_here, [scan], path)
    except InputError as error:
        asked = error.asked.replace(str(draft), path.name).replace(str(path), path.name)
        raise InputError(asked, error.found, error.remedy) from None
    finally:
        draft.unlink(missing_ok=True)
    replace_file(path, text.encode())
    return stored_labels(shown)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
