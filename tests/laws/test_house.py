"""Laws of the house: length of files, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_files__stay_below_450_lines() -> None:
    """As the formatter leaves them."""
    folders = ("dfxm_dask", "tests", "scripts")
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for f in folders for p in (ROOT / f).rglob("*.py")
    }
    assert len(lengths) > 50
    assert {name: n for name, n in lengths.items() if n > 450} == {}


def test_folders__hold_a_dozen_files() -> None:
    package = ROOT / "dfxm_dask"
    counts = {str(d.relative_to(ROOT)): len(list(d.glob("*.py"))) for d in package.rglob("*") if d.is_dir()}
    assert {name: n for name, n in counts.items() if n > 12 + 1} == {}  # and its page


def test_functions__of_rooms_declare_types_unless_numba_infers_them() -> None:
    found = {
        f"{p.relative_to(ROOT)}: {node.name}": [ast.unparse(d) for d in node.decorator_list]
        for room in ("frames", "rocking", "components", "beams", "volume", "optics", "boundaries", "strain")
        for p in (ROOT / "dfxm_dask" / room).rglob("*.py")
        for node in ast.parse(p.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.returns is None
    }
    assert len(found) > 50
    assert [name for name, by in found.items() if not any("njit" in d or d == "intrinsic" for d in by)] == []


def test_import__is_light() -> None:
    """Heavy modules load when they are used."""
    program = (
        "import sys, dfxm_dask;"
        "heavy = {'torch', 'dask', 'distributed', 'zarr', 'xarray', 'numba', 'h5py', 'matplotlib'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_import__torch_stays_out_of_the_rooms() -> None:
    program = "import sys, dfxm_dask as d; d.moments; d.ingest; d.run_recipe; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
