"""Random recipes, command lines, configurations and metadata: read, or refused by an error of ours, and nothing else.

Each search runs some hundred examples, always the same; with --slow, ten times as many or more.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dfxm_dask
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.cli import cli
from dfxm_dask.errors import DfxmError
from dfxm_dask.run.clusters.cluster import read_cluster
from dfxm_dask.run.labels import read_labels
from dfxm_dask.run.nights.config import read_nightly
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.schema import printable
from dfxm_dask.sources.source import load_beamline
from dfxm_dask.store.metadata import check_store
from tests.beamline_files import write_bliss

CONFIGS = Path(__file__).parents[2] / "configs"
MORE = {"recipes": (150, 3000), "texts": (300, 3000), "configs": (70, 1200), "words": (150, 2500), "nodes": (40, 1500)}
"""Examples of each search, as always and with --slow."""


@pytest.fixture(scope="session")
def examples(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Settings of a search."""

    def of(name: str) -> Any:
        few, many = MORE[name]
        return settings(
            max_examples=many if request.config.getoption("--slow") else few,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )

    return of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def fine(error: DfxmError, name: str = "") -> None:
    """What every refusal must be: a short line that can be shown, and names the file."""
    assert name in str(error)
    line = " ".join(str(error).split())
    assert error.asked
    assert error.found
    assert error.remedy
    assert len(line) < 4000
    line.encode()


# Values that somebody might write.

WILD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", *"none nan inf -1 1e999 1:30 0x10 ../../x /etc/passwd phi auto quantile true".split(), "\u202e", "\x00"]
        + ["\x1b[2J", "a" * 500, "tcp://127.0.0.1:1", "9" * 20]
    ),
)
NESTED = st.recursive(
    WILD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
# Parted by a sign that no file has.
PIECES = (
    "steps§name§moments§background§quantile§optional§kind§local§motors§phi§class§: §- §\n§\n  §\n- §{§}§"
    "[§]§0.1§1e400§true§~§'§\"§&a §*a§!!int §|§>§#§,§?§<<§=§---§\t§2026-99-99§0x§1_0§.inf§0b§0o9§%§"
    "\u2028§\ufeff§\x85§\x00§\ud800§😀"
)
WORDS = st.sampled_from([*PIECES.split("§"), "9" * 400])


@cache
def known() -> dict[str, Any]:
    return dict(load_reductions())


def near(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of about the type of a parameter."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(inner)
    if annotation in (int, float, bool):
        return {int: st.integers(-2, 400), float: st.floats(-2, 1e6), bool: st.booleans()}[annotation]
    if origin in (tuple, list) and inner:
        return st.lists(near(inner[0]), max_size=5)
    return st.one_of([near(part) for part in inner]) if inner else WILD


@st.composite
def recipes(draw: st.DrawFn) -> str:
    """A recipe of known steps and parameters, with wild ones among them."""
    steps = []
    for name in draw(st.lists(st.sampled_from(sorted(known())), min_size=1, max_size=4, unique=True)):
        fields = known()[name].parameters.model_fields
        given: dict[str, Any] = {}
        for word in draw(st.lists(st.sampled_from(sorted(fields)), max_size=4)) if fields else ():
            wild = draw(st.integers(0, 4)) == 0
            given[word] = draw(NESTED if wild else st.just(fields[word].get_default()) | near(fields[word].annotation))
        if draw(st.integers(0, 9)) == 0:
            given[draw(st.text(max_size=8))] = draw(NESTED)
        step: dict[str, Any] = {name: given}
        if draw(st.integers(0, 9)) == 0:
            step["optional"] = draw(st.booleans() | WILD)
        steps.append(step)
    top: dict[str, Any] = {"steps": steps}
    if draw(st.booleans()):
        top["name"] = draw(st.just("own") | WILD)
    return yaml.safe_dump(top, allow_unicode=draw(st.booleans()), sort_keys=False)


@st.composite
def damaged(draw: st.DrawFn, sound: tuple[str, ...]) -> str:
    """A sound file with pieces replaced, or words in any order."""
    text = draw(st.sampled_from(sound))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + "".join(draw(st.lists(WORDS, max_size=4))) + text[stop:]
    return text


def texts_of(kind: str) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8") for path in sorted((CONFIGS / kind).glob("*.yaml")))


def test_recipes__of_any_values_are_read_or_refused(examples: Any) -> None:
    read = []

    @examples("recipes")
    @given(recipes())
    def search(text: str) -> None:
        try:
            recipe = parse_recipe(text, Path("some/own.yaml"))
        except DfxmError as error:
            fine(error, "some/own.yaml:")
        else:
            read.append(recipe)
            for step in recipe.steps:
                json.dumps(step.parameters, allow_nan=False)  # as provenance will

    search()
    assert len(read) > 10


def test_recipes__of_any_text_are_read_or_refused(examples: Any) -> None:
    sound = texts_of("recipes")

    @examples("texts")
    @given(damaged(sound) | st.lists(WORDS, max_size=30).map("".join) | st.text(max_size=80))
    def search(text: str) -> None:
        try:
            assert parse_recipe(text, Path("some/own.yaml")).steps
        except DfxmError as error:
            fine(error, "some/own.yaml:")

    search()


LABELS = "- {z: 12.0, phi: 0.0123, box: [0, 640, 0, 512], class: weak}\n- {z: 12.0, phi: 0.0301, class: strong}\n"
TABLE = "z,phi,y0,y1,x0,x1,class\n12.0,0.0123,0,640,0,512,weak\n12.0,0.0301,,,,,strong\n"


NIGHTS = tuple(path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("night*.yaml")))
READERS: dict[str, tuple[Callable[[Path], Any], str, tuple[str, ...]]] = {
    "cluster": (read_cluster, "own.yaml", texts_of("clusters")),
    "beamline": (lambda path: load_beamline(path, {"mu": "phi"}), "own.yaml", texts_of("beamlines")),
    "labels": (lambda path: read_labels(path, ["phi"]), "own.yaml", (LABELS,)),
    "table of labels": (lambda path: read_labels(path, ["phi"]), "own.csv", (TABLE,)),
    "night": (read_nightly, "own.yaml", NIGHTS or ("raw: [a]\n",)),
}


@st.composite
def structured(draw: st.DrawFn, sound: tuple[str, ...]) -> str:
    """A sound configuration with values exchanged, taken out or put in."""
    content = yaml.safe_load(draw(st.sampled_from(sound)))
    places = [content]
    for place in places:
        places += [v for v in (place.values() if isinstance(place, dict) else place) if isinstance(v, dict | list)]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if keys and draw(st.integers(0, 3)):
            place[draw(st.sampled_from(keys))] = draw(NESTED)
        elif isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(NESTED)
        else:
            place.append(draw(NESTED))
    return yaml.safe_dump(content, sort_keys=False)


@pytest.mark.parametrize("reader", READERS)
def test_configurations__of_anything_are_read_or_refused(examples: Any, folder: Path, reader: str) -> None:
    read, name, sound = READERS[reader]
    path = folder / name
    shaped = damaged(sound) if name.endswith(".csv") else damaged(sound) | structured(sound)

    @examples("configs")
    @given(shaped | st.binary(max_size=40))
    def search(text: str | bytes) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            read(path)
        except DfxmError as error:
            fine(error, "" if reader == "night" else name)  # a night names recipes and clusters by their own

    search()


# Command lines.


@pytest.fixture(scope="module")
def sound(folder: Path) -> Path:
    write_bliss(folder / "s.h5", layers=1, shape=(3,), size=(16, 16))
    dfxm_dask.ingest(folder / "s.h5", folder / "s.zarr", pixel_size=(0.5, 0.25))
    return folder / "s.zarr"


@st.composite
def command_lines(draw: st.DrawFn, files: tuple[str, ...]) -> list[str]:
    """Words of a command: its options with wild values, files that are there and files that are not."""
    name = draw(st.sampled_from(sorted(cli.commands)))
    command = cli.commands[name]
    words = [name]
    if name == "reduce":
        words.append(draw(st.sampled_from(sorted(known())) | st.text(max_size=8)))
        command = command.get_command(click.Context(command), words[-1]) or command  # type: ignore[attr-defined]
    values = st.one_of(
        st.sampled_from(files),
        st.text(max_size=12).map(lambda text: text.replace("/", "")),
        st.integers(-5, 10**12).map(str),
        st.floats().map(str),
        st.sampled_from(
            "maps id03 local none prior truth compact 1,2 0:9,0:9 a=b = , : mu=phi - -- -h 1/2 tcp://".split()
            + ["9" * 400, "all", "x" * 300]
        ),
    )
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            likely = draw(st.integers(0, 5)) > 0
            words.append(draw(st.sampled_from([*files, "maps", "weak_beam", "moments", "easy"]) if likely else values))
    options = [p for p in command.params if isinstance(p, click.Option) and p.name != "plugins"]
    for option in draw(st.lists(st.sampled_from(options), max_size=3)) if options else ():
        words.append(draw(st.sampled_from(list(option.opts))))
        if not option.is_flag and draw(st.integers(0, 9)):
            fit = {
                click.Choice: st.sampled_from(list(getattr(option.type, "choices", ["x"]))),
                click.IntRange: st.integers(0, 9).map(str),
            }.get(type(option.type), values)
            words.append(str(draw(fit | values)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        words.insert(draw(st.integers(1, len(words))), draw(values))
    # Code in a file that the user names is run: that is what --plugin is for, and it is left out here.
    return [word.replace("\0", "") for word in words if not word.startswith("--plug")]


def test_command_lines__of_any_words_end_with_a_line_and_an_exit_code(
    examples: Any, sound: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dfxm_dask.run import execute
    from dfxm_dask.run.clusters import cluster

    work = folder / "work"
    work.mkdir(exist_ok=True)
    shutil.copytree(sound, work / "s.zarr")
    shutil.copy(folder / "s.h5", work / "s.h5")
    (folder / "own.yaml").write_text("name: a\nsteps:\n- background: {}\n- moments: {}\n")
    (folder / "empty").write_bytes(b"")
    monkeypatch.chdir(work)
    files = tuple(
        str(path)
        for path in (
            Path("s.zarr"),
            Path("s.zarr/raw"),
            Path("s.h5"),
            folder / "own.yaml",
            work,
            folder / "empty",
            folder / "absent",
            Path("out"),
            Path("absent.yaml"),
            Path("/dev/null"),
        )
    )

    def not_begun(*_: Any, **__: Any) -> Any:
        raise DfxmError("work", "is not begun in this test", "run it in another")

    # Only what takes seconds is left out: readers, plans and checks are those of every run.
    monkeypatch.setattr(cluster, "open_cluster", not_begun)
    monkeypatch.setattr(execute, "run_recipe", not_begun)
    monkeypatch.setattr(execute, "run_simulate", not_begun)
    for place in (
        "dfxm_dask.run.training.train",
        "dfxm_dask.run.training.gather",
        "dfxm_dask.view.pictures.figures",
        "dfxm_dask.view.browser.opening.serve",
        "dfxm_dask.run.live.following.follow",
        "dfxm_dask.run.checks.doctor.doctor",
        "dfxm_dask.cli.scans.simulated",
        "dfxm_dask.cli.scans.demo_scan",
    ):
        monkeypatch.setattr(place, not_begun)
    codes: dict[int, int] = {}
    open_at_first = len(os.listdir("/proc/self/fd"))
    faults: dict[str, list[str]] = {}

    @examples("words")
    @given(command_lines(files))
    def search(words: list[str]) -> None:
        result = CliRunner().invoke(cli, words)
        codes[result.exit_code] = codes.get(result.exit_code, 0) + 1
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            faults.setdefault(f"{words[0]}: {result.exception!r}"[:200], words)
        elif result.exit_code == 1:
            assert "Traceback" not in result.output
            assert result.stderr.count("Error: ") == 1, (words, result.stderr)
            assert result.stderr.splitlines()[-1].startswith("Error: ")
        assert result.exit_code in (0, 1, 2, 3) or result.exception is not None

    search()
    assert not faults, json.dumps(faults, indent=1)
    assert codes[1] > 20
    assert codes[2] > 20
    assert len(os.listdir("/proc/self/fd")) < open_at_first + 20  # no file stays open


# Metadata of stores.


@st.composite
def changed_nodes(draw: st.DrawFn, nodes: tuple[str, ...], store: Path) -> tuple[str, bytes]:
    """One zarr.json with values exchanged, taken out, or bytes changed."""
    node = draw(st.sampled_from(nodes))
    raw = (store / node).read_bytes()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw) - 1))
        return node, raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 8)) :]
    content = json.loads(raw)
    places: list[Any] = [content]
    for place in places:
        places += [v for v in (place.values() if isinstance(place, dict) else place) if isinstance(v, dict | list)]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()):
            place[key] = draw(NESTED)
        else:
            del place[key]
    return node, json.dumps(content).encode("utf-8", "surrogatepass")


def test_stores__of_any_metadata_are_opened_or_refused(examples: Any, sound: Path, tmp_path: Path) -> None:
    """A changed store is refused, or opens and shows itself; nothing else comes out, whatever its JSON says."""
    store = tmp_path / "s.zarr"
    shutil.copytree(sound, store)
    nodes = tuple(sorted(str(path.relative_to(store)) for path in store.rglob("zarr.json")))
    faults: dict[str, str] = {}
    opened = refused = 0

    @examples("nodes")
    @given(changed_nodes(nodes, sound))
    def search(changed: tuple[str, bytes]) -> None:
        nonlocal opened, refused
        node, data = changed
        (store / node).write_bytes(data)
        try:
            opens = False
            try:
                check_store(store)
                opens = True
                dfxm_dask.open_scan(store, chunks=None, allow_partial=True)
                opened += 1
            except DfxmError as error:
                fine(error)
                refused += 1
            # What the check refuses is refused by the commands, too: see test_attacks.py.
            for words in (["info", str(store)], ["check", str(store)], ["check", "maps", str(store)]) if opens else ():
                result = CliRunner().invoke(cli, words)
                if result.exception is not None and not isinstance(result.exception, SystemExit):
                    faults.setdefault(f"{words[0]}: {result.exception!r}"[:200], f"{node}: {data!r}"[:1500])
                assert printable(result.output) == result.output
        except DfxmError:
            raise
        except Exception as error:
            faults.setdefault(f"open_scan: {error!r}"[:200], f"{node}: {data!r}"[:1500])
        finally:
            (store / node).write_bytes((sound / node).read_bytes())

    search()
    assert not faults, json.dumps(faults, indent=1)
    assert opened > 3
    assert refused > 15  # copies of coordinates in groups are for other readers: ours ignores them
