"""Sources of the documentation site: the pages of the repository under their own paths, and a page of the API per room.

``python scripts/website/pages.py FOLDER`` writes them; links between pages then hold in the repository and on the site.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = (
    "LICENSE",
    "CITATION.cff",
    ".readme/*.png",
    "dfxm_dask/guide/*",
    "scripts/*/RESULTS.md",
    "tests/README.md",
    "tests/references/README.md",
)
CONTENTS = """
```{{toctree}}
:hidden:

dfxm_dask/guide/index
examples/index
api/index
{results}
```
"""


def public_names() -> dict[str, list[str]]:
    """Public names of the package by the room or module that holds them."""
    found: dict[str, list[str]] = {}
    for module, name in re.findall(
        r"^from \.([\w.]*) import (\w+) as", (ROOT / "dfxm_dask/__init__.pyi").read_text(), re.M
    ):
        found.setdefault(module.partition(".")[0] or name, []).append(name)
    return found


def api_pages() -> dict[str, str]:
    """Pages of the API in reStructuredText by name: the physics of each room, then its public names."""
    rooms = public_names()
    pages = {}
    for room, names in rooms.items():
        text = f"{room}\n{'=' * len(room)}\n\n.. automodule:: dfxm_dask.{room}\n\n.. currentmodule:: dfxm_dask\n\n"
        for name in names:
            kind = "autoclass" if isinstance(getattr(import_module("dfxm_dask"), name), type) else "autofunction"
            # The package view is called like a function, whose docstring is that of this one.
            place = "view.browser.opening.view" if name == "view" else name
            text += f".. {kind}:: dfxm_dask.{place}\n\n"
        pages[room] = text
    rows = "\n".join(f"   {room}" for room in rooms)
    listed = "\n".join(
        f"* :doc:`{room}`: " + ", ".join(f":func:`~dfxm_dask.{name}`" for name in names)
        for room, names in rooms.items()
    )
    pages["index"] = (
        f"API\n===\n\nThe public names of ``dfxm_dask``, by room.\n\n{listed}\n\n.. toctree::\n   :hidden:\n\n{rows}\n"
    )
    return pages


def write_pages(folder: Path) -> None:
    """Write all sources of the site into a folder, in place of earlier ones."""
    shutil.rmtree(folder, ignore_errors=True)
    results = []
    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            results += [str(path.relative_to(ROOT).with_suffix(""))] if pattern.startswith(("scripts", "tests")) else []
    readme = (ROOT / "README.md").read_text("utf-8").replace("](scripts/examples)", "](examples/index.rst)")
    (folder / "index.md").write_text(readme + CONTENTS.format(results="\n".join(results)))
    (folder / "api").mkdir()
    for name, text in api_pages().items():
        (folder / "api" / f"{name}.rst").write_text(text)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
