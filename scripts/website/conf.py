"""Settings of the documentation site; ``scripts/docs`` builds it."""

from pathlib import Path
from typing import Any

import dfxm_dask

project = "dfxm_dask"
author = "the dfxm_dask developers"
version = release = dfxm_dask.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["examples/*.ipynb"]
html_theme = "furo"
html_title = f"dfxm_dask {version}"
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings state types, shapes and units
napoleon_google_docstring = False
napoleon_use_rtype = False
sphinx_gallery_conf = {
    "examples_dirs": str(Path(__file__).parents[1] / "examples"),
    "gallery_dirs": "examples",
    "filename_pattern": r"/\d_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "min_reported_time": 1e6,
    "abort_on_example_error": True,
    "capture_repr": (),
}


def escape_bars(app: object, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Bars of absolute values, |u|, which reStructuredText would take for substitutions; code keeps its bars."""
    for k, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[k] = "``".join(t if n % 2 else t.replace("|", r"\|") for n, t in enumerate(line.split("``")))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_bars, priority=400)  # before napoleon
