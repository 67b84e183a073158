"""The command line: exit codes, one-line refusals, and what is handed to the packages behind it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pydantic import Field

from dfxm_dask import catalogue, cli
from dfxm_dask.errors import SourceError, StoreError
from dfxm_dask.reduction import REGISTRY, reduction
from dfxm_dask.run.clusters import cluster
from dfxm_dask.run.recipe import Recipe
from dfxm_dask.schema import AXES, COUNTS, Variable
from tests.beamline_files import known_counts
from tests.stores import raw_store

TOTAL = Variable("total", ("z", "y", "x"), "float32", "count", "sum of the curve")


@pytest.fixture(autouse=True)
def reductions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One reduction stands for the rooms, which register themselves once, when they are imported."""
    before = dict(catalogue.load_reductions())
    REGISTRY.clear()

    @reduction(reads=(COUNTS, AXES), writes=(TOTAL,), over=("scan",), group="rocking")
    def moments(
        counts: np.ndarray,
        scan: dict[str, np.ndarray],
        *,
        background: Annotated[
            float, Field(ge=0, description="subtracted first", json_schema_extra={"unit": "count"})
        ] = 0.0,
        method: Literal["sum", "fit"] = "sum",
        smooth_first: bool = False,
        window: tuple[int, int] | None = None,
        span: tuple[int, ...] = (1, 2),
    ) -> dict[str, np.ndarray]:
        """Centre of mass of the rocking curve.

        Long words [not markup].
        """
        return {"total": counts}

    monkeypatch.setattr(catalogue, "load_reductions", lambda: REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


Planned = types.SimpleNamespace


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for ingest, plan, run and cluster, and what they were asked for."""
    seen: dict[str, Any] = {"complete": True, "absent": ()}

    def run_ingest(source: Any, store: Any, *, client: Any, publish: tuple[Any, ...], **options: Any) -> Any:
        from dfxm_dask.run.events import LayerDone, send

        seen["ingest"] = (source, store, client, options)
        send(publish, LayerDone("z0001", 0.5, 120, 2, 2))
        return Planned(layers=2, skipped=0, absent=seen["absent"], seconds=1.0, bytes=240, remarks=("a note",))

    def plan(recipe: Recipe, store: Path) -> Any:
        seen["recipe"] = recipe
        step = Planned(
            name="moments",
            group="rocking",
            blocks=("z0",) * 4,
            unit="layer",
            memory_bytes=10**8,
            bytes_read=10**9,
            bytes_written=10**7,
            fused_with=("kam",),
        )
        return Planned(
            steps=(step,),
            left_out=(("mosaicity", "one axis"),),
            remarks=("a note",),
            tasks=4,
            scan_bytes=10**9,
            memory_bytes=10**8,
            bytes_read=10**9,
            bytes_written=10**7,
        )

    def run_recipe(
        recipe: Recipe, store: Path, *, client: Any, publish: tuple[Any, ...], overwrite: bool, share: Any
    ) -> Any:
        from dfxm_dask.run.events import RunDone, send

        send(publish, RunDone(2.0, 4, 0, seen["complete"]))
        seen["client"], seen["overwrite"] = client, overwrite
        return Planned(complete=seen["complete"])

    @contextmanager
    def open_cluster(spec: Any, **options: Any) -> Iterator[str]:
        seen["cluster"] = (spec, options)
        yield "client"

    def run_simulate(preset: str, out: Path, *, client: Any, publish: tuple[Any, ...], **options: Any) -> None:
        seen["simulate"] = (preset, out, client, options)

    stand_in = Planned(
        starts_workers=lambda *words: True,
        plan=plan,
        run_recipe=run_recipe,
        run_ingest=run_ingest,
        run_simulate=run_simulate,
        refuse_share=lambda *words: None,
    )
    monkeypatch.setitem(sys.modules, "dfxm_dask.run.execute", stand_in)
    monkeypatch.setattr(cluster, "open_cluster", open_cluster)
    return seen


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("steps:\n- moments: {background: 3}\n")
    return path


def test_usage__errors_exit_with_2(tmp_path: Path) -> None:
    for words, match in (
        (("nothing",), "No such command"),
        (("run", "maps"), "Missing argument 'STORE'"),
        (("ingest", "a.h5", "b.zarr", "--roi", "1:2"), "'1:2' is not y0:y1,x0:x1"),
        (("ingest", "a.h5", "b.zarr", "--pixel-size", "0.1"), "'0.1' is not Y,X in um"),
        (("ingest", "a.h5", "b.zarr", "--motor", "mu"), "'mu' is not MOTOR=AXIS"),
        (("reduce", "nothing", "b.zarr"), "No such command 'nothing'"),
        (("reduce", "moments", "b.zarr", "--background", "-1"), "greater than or equal to 0"),
        (("reduce", "moments", "b.zarr", "--method", "guess"), "'guess' is not one of 'sum', 'fit'"),
        (("run", "maps", "b.zarr", "--workers", "-1"), "-1 is not in the range"),
    ):
        result = call(*words)
        assert result.exit_code == 2, words
        assert match in result.stderr


def test_refusal__is_one_line_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("steps:\n- momens: {}\n")
    result = call("run", path, tmp_path / "b.zarr")
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path}:2: reduction 'momens': is unknown (did you mean 'moments'")


def test_refusal__of_a_plugin_is_one_line(tmp_path: Path) -> None:
    result = call("reductions", "--plugin", tmp_path / "absent.py")
    assert result.exit_code == 1
    assert "is not a Python file" in result.stderr


def test_ingest__hands_its_options_on(asked: dict[str, Any], tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    result = call(
        "ingest",
        "a.h5",
        "b.h5",
        "c.zarr",
        "--scan",
        "all",
        "--roi",
        "0:10, 5:20",
        "--pixel-size",
        "0.2,0.06",
        "--motor",
        "samz=z",
        "--root",
        "/data",
        "--detector",
        "pco",
        "--z",
        "1,2.5",
        "--events",
        events,
    )
    assert result.exit_code == 0, result.output
    source, store, client, options = asked["ingest"]
    assert (source, store, client) == (["a.h5", "b.h5"], Path("c.zarr"), None)
    assert options == dict.fromkeys(("energy", "frame", "goniometer", "rotation_axis")) | {
        "scan": "all",
        "beamline": "id03",
        "detector": "pco",
        "roi": (0, 10, 5, 20),
        "pixel_size": (0.2, 0.06),
        "motors": {"samz": "z"},
        "z": [1.0, 2.5],
        "roots": (Path("/data"),),
        "allow_partial": False,
        "overwrite": False,
        "scan_mode": None,
        "format": None,
        "positions": None,
        "repeats": None,
        "time_step": None,
        "lattice": None,
        "hkl": None,
    }
    assert result.stdout.splitlines()[-2:] == ["c.zarr: 2 layers, 240 B in 1 s", "note: a note"]
    assert "layer z0001: 120 B" in result.stderr
    assert events.read_text().count("LayerDone") == 1


def test_ingest__exits_with_3_where_layers_are_absent(asked: dict[str, Any]) -> None:
    asked["absent"] = ("3.1 (20 of 31 frames)",)
    result = call("ingest", "a.h5", "c.zarr", "--allow-partial")
    assert result.exit_code == 3
    assert "ABSENT: 3.1 (20 of 31 frames)" in result.stdout


def test_ingest__writes_layers_in_parallel_where_asked(asked: dict[str, Any]) -> None:
    assert call("ingest", "a.h5", "c.zarr", "--workers", "3").exit_code == 0
    assert asked["cluster"] == (None, {"workers": 3})
    assert asked["ingest"][2] == "client"


def test_ingest__refuses_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_ingest(*_: Any, **__: Any) -> None:
        raise SourceError("a.h5 entry 1.1", "frame 3\nis unreadable", "look")

    monkeypatch.setitem(sys.modules, "dfxm_dask.run.execute", Planned(run_ingest=run_ingest))
    result = call("ingest", "a.h5", "c.zarr")
    assert (result.exit_code, result.stderr) == (1, "Error: a.h5 entry 1.1: frame 3 is unreadable; look\n")


def test_check__says_what_a_run_costs(asked: dict[str, Any], recipe: Path) -> None:
    result = call("check", recipe, "c.zarr")
    assert result.exit_code == 0
    for words in (
        "moments",
        "rocking",
        "layer",
        "100 MB",
        "1 GB",
        "10 MB",
        "kam",
        "mosaicity: will be left out, one axis",
    ):
        assert words in result.stdout
    assert "4 tasks, each up to 100 MB of memory; 1 GB to read, 10 MB to write" in result.stdout
    assert "cluster" not in asked


def test_run__runs_on_the_cluster_that_was_asked_for(asked: dict[str, Any], recipe: Path) -> None:
    result = call("run", recipe, "c.zarr", "--cluster", "tcp://127.0.0.1:1", "--workers", "2", "--overwrite")
    assert result.exit_code == 0, result.output
    assert asked["cluster"] == ("tcp://127.0.0.1:1", {"workers": 2, "plugins": ()})
    assert (asked["client"], asked["overwrite"]) == ("client", True)
    assert asked["recipe"].steps[0].parameters["background"] == 3.0
    assert "complete: 4 blocks in 2 s" in result.stderr


def test_run__exits_with_3_where_something_is_left_to_do(asked: dict[str, Any], recipe: Path) -> None:
    asked["complete"] = False
    result = call("run", recipe, "c.zarr")
    assert result.exit_code == 3
    assert "INCOMPLETE" in result.stderr


def test_run__starts_no_cluster_for_what_is_refused(
    asked: dict[str, Any], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*_: Any) -> None:
        raise StoreError("store c.zarr", "is absent", "ingest first")

    monkeypatch.setattr(sys.modules["dfxm_dask.run.execute"], "plan", plan)
    result = call("run", recipe, "c.zarr")
    assert (result.exit_code, result.stderr) == (1, "Error: store c.zarr: is absent; ingest first\n")
    assert "cluster" not in asked


def test_run__takes_reductions_from_a_plugin(asked: dict[str, Any], tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dfxm_dask.reduction import reduction\n"
        "from dfxm_dask.schema import COUNTS, Variable\n"
        "@reduction(reads=(COUNTS,), writes=(Variable('third', ('z', 'y', 'x'), 'float32', '1', 'third'),))\n"
        "def third(counts, *, power: int = 2):\n"
        "    'Third quantity.'\n"
        "    return {'third': counts}\n"
    )
    (tmp_path / "mine.yaml").write_text("steps:\n- third: {power: 3}\n")
    result = call("run", tmp_path / "mine.yaml", "c.zarr", "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert asked["cluster"][1]["plugins"] == (plugin,)
    result = call("reduce", "--plugin", plugin, "third", "c.zarr", "--power", "4")
    assert result.exit_code == 0, result.output
    assert asked["recipe"].steps[0].parameters == {"power": 4}
    assert asked["cluster"][1]["plugins"] == (plugin,)


def test_reduce__makes_options_from_the_declaration(asked: dict[str, Any]) -> None:
    text = " ".join(call("reduce", "moments", "--help").output.split())
    assert "--background FLOAT>=0 subtracted first, in count. [default: 0.0]" in text
    assert "--method [sum|fit] method. [default: sum]" in text
    assert "--smooth-first / --no-smooth-first" in text
    assert "Centre of mass of the rocking curve." in call("reduce", "--help").output
    result = call("reduce", "moments", "c.zarr", "--background", "100", "--smooth-first", "--span", "3,4")
    assert result.exit_code == 0, result.output
    (step,) = asked["recipe"].steps
    assert step.parameters == {
        "background": 100.0,
        "method": "sum",
        "smooth_first": True,
        "window": None,
        "span": (3, 4),
    }
    asked["complete"] = False
    assert call("reduce", "moments", "c.zarr").exit_code == 3


def test_reductions__are_listed() -> None:
    result = call("reductions")
    assert result.exit_code == 0
    assert "Centre of mass of the rocking curve." in result.output


def test_explain__shows_units_and_defaults() -> None:
    result = call("explain", "moments")
    assert result.exit_code == 0
    for words in ("z, scan, y, x", "uint16", "sum of the curve", "float >= 0", "sum | fit", "Long words [not markup]."):
        assert words in result.output
    assert call("explain", "moment").exit_code == 1


def test_demo__without_the_data_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.metadata

    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    result = call("demo", "--real", "--out", tmp_path / "demo")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: demo: the example scan is not installed; pip install 'dfxm_dask[demo]'\n",
    )
    assert not (tmp_path / "demo").exists()


def test_simulate__hands_its_options_on(asked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    words = ("--layers", 2, "--shape", "64, 96", "--seed", 7, "--format", "bliss", "--workers", 2)
    result = call("simulate", "hard", out, *words)
    assert result.exit_code == 0, result.output
    assert f"{out}: preset hard, seed 7" in result.output.replace("\n", "")
    options = {"layers": 2, "shape": (64, 96), "seed": 7, "format": "bliss", "overwrite": False}
    options |= {"strong_beam": None, "network": None}
    assert asked["simulate"] == ("hard", out, "client", options)
    assert asked["cluster"][1]["workers"] == 2
    assert call("simulate", "hard", out, "--shape", "64").exit_code == 2
    assert call("simulate", "hard", out, "--layers", 0).exit_code == 2


def test_simulate__unknown_preset_is_one_line(tmp_path: Path) -> None:
    result = call("simulate", "esay", tmp_path / "s.zarr")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "did you mean 'easy'" in result.stderr


def test_train__hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dfxm_dask.beams.network.weights import facts, shipped
    from dfxm_dask.run import training

    def train_weights(stores: Any, out: Path, *, say: Any, **options: Any) -> Any:
        say("epoch 1: loss 0.5")
        seen.extend([stores, out, options])
        return facts(shipped())

    seen: list[Any] = []
    monkeypatch.setattr(training, "train_weights", train_weights)
    out = tmp_path / "w.safetensors"
    result = call(
        "train", "a.zarr", "b.zarr", "--labels", "prior", "--out", out, "--max-patches", 90, "--start", "none"
    )
    assert (result.exit_code, result.stderr) == (0, "epoch 1: loss 0.5\n")
    assert seen == [
        (Path("a.zarr"), Path("b.zarr")),
        out,
        {
            "labels": "prior",
            "start": "none",
            "architecture": None,
            "epochs": 20,
            "seed": 0,
            "most": 90,
            "dark": None,
            "overwrite": False,
        },
    ]
    assert "trained" in result.stdout
    assert (tmp_path / "w_confusion.png").exists()


def test_main__is_the_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dfxm-dask", "--version"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()


def test_ingest__positions_of_layers_from_the_command_line(tmp_path: Path) -> None:
    from tests.beamline_files import write_bliss

    write_bliss(tmp_path / "s.h5", layers=2, shape=(3,), z_step=0)
    command = ["ingest", str(tmp_path / "s.h5"), str(tmp_path / "s.zarr"), "--scan", "all"]
    assert CliRunner().invoke(cli.cli, [*command, "--z", "a,b"]).exit_code == 2
    assert CliRunner().invoke(cli.cli, [*command, "--z", "2,1"]).exit_code == 0
    from dfxm_dask.store.scan import open_scan

    assert open_scan(tmp_path / "s.zarr")["raw"].z.values.tolist() == [1.0, 2.0]


def test_check__of_a_store_alone_exits_with_1_where_a_finding_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def equal(*given: Any, **options: Any) -> np.ndarray:
        counts = known_counts(*given, **options)
        counts[12] = counts[11]
        return counts

    assert call("check", tmp_path / "none.zarr").exit_code == 2
    sound = call("check", raw_store(tmp_path), "--json")
    assert sound.exit_code == 0, sound.output
    (tmp_path / "bad").mkdir()
    monkeypatch.setattr("tests.beamline_files.known_counts", equal)
    bad = call("check", raw_store(tmp_path / "bad"))
    assert bad.exit_code == 1
    assert "equal_frames" in bad.stdout
    assert "frame 12" in bad.stdout
