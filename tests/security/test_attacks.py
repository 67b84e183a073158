"""Files from strangers: none runs code, leads outside, takes unbounded memory, or steers a terminal."""

from __future__ import annotations

import ast
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result

import dfxm_dask
from dfxm_dask.beams.network.weights import shipped
from dfxm_dask.cli import cli
from dfxm_dask.components.drawn_regions import read_mask
from dfxm_dask.errors import InputError, RecipeError, SourceError
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.schema import printable
from dfxm_dask.sources.readers import read_scan
from dfxm_dask.sources.source import load_beamline
from tests.beamline_files import known_counts, write_bliss, write_edf
from tests.store.test_broken_inputs import meta, refusal, told

BEAMLINE = load_beamline("id03")
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


# The package itself.


def test_package__has_no_way_to_run_what_it_reads() -> None:
    folder = Path(dfxm_dask.__file__).parent
    found = []
    forbidden = {
        "eval",
        "exec",
        "compile",
        "loads_pickle",
        "unsafe_load",
        "full_load",
        "full_load_all",
        "system",
        "popen",
    }
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", "") or ""}
                found += [
                    f"{path.name}:{node.lineno} {n}" for n in names & {"pickle", "cPickle", "dill", "shelve", "marshal"}
                ]
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                owner = getattr(getattr(function, "value", function), "id", "another")
                given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                risky = name in forbidden and owner in (name, "os", "yaml", "builtins")
                risky |= (owner, name) in (("yaml", "load"), ("torch", "load"), ("joblib", "load"))
                risky |= given.get("allow_pickle") is True or given.get("shell") is True
                risky |= owner == "np" and name == "load" and given.get("allow_pickle", True) is not False
                found += [f"{path.name}:{node.lineno} {owner}.{name}"] if risky else []
    assert found == []


def test_console__imports_nothing_from_the_folder_it_stands_in(tmp_path: Path, trap: Path) -> None:
    for name in ("yaml", "numpy", "json", "click", "dfxm_dask", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\n")
    (tmp_path / "maps.yaml").write_text("name: x\nplugins: [yaml.py]\nsteps:\n- moments: {}\n")
    command = Path(sys.executable).with_name("dfxm-dask")
    done = subprocess.run(
        [command, "check", "maps.yaml", "s.zarr"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "'plugins': is unknown at the top level" in done.stderr


def test_run__listens_on_loopback_only(store: Path) -> None:
    from dfxm_dask.run.clusters.cluster import open_cluster

    with open_cluster(workers=1) as client:
        assert client.submit(sum, [1, 2]).result() == 3
        here = psutil.Process()
        found = {
            connection.laddr.ip
            for process in (here, *here.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    assert found
    assert found <= {"127.0.0.1", "::1"}


# Weights.


def weights(folder: Path) -> Path:
    path = folder / "own.safetensors"
    path.write_bytes(shipped().read_bytes())
    path.with_suffix(".json").write_bytes(shipped().with_suffix(".json").read_bytes())
    return path


def with_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of weights, and make the JSON beside them agree."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])
    told(path, sha256=sha256(path.read_bytes()).hexdigest())


def first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for name, entry in header.items() if name != "__metadata__")
    return found


def pickled(path: Path, trap: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(trap)))


def zipped(path: Path, trap: Path) -> None:
    """As torch.save writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(trap), protocol=2))
        archive.writestr("archive/version", "3")


WEIGHTS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "pickle": (pickled, "pickle under another name"),
    "torch.save": (zipped, "pickle under another name"),
    "header of 2**60 bytes": (
        lambda p, _: p.write_bytes(struct.pack("<Q", 1 << 60) + b"{" * 100),
        "are no safetensors file",
    ),
    "header nested 100,000 deep": (
        lambda p, _: p.write_bytes(struct.pack("<Q", 100_000) + b'{"a":' * 20_000),
        "header that cannot be read",
    ),
    "tensors of unknown kind": (
        lambda p, _: with_header(p, lambda h: first_tensor(h).update(dtype="OBJECT")),
        "cannot be read",
    ),
    "tensors outside the file": (
        lambda p, _: with_header(p, lambda h: first_tensor(h).update(data_offsets=[0, 1 << 50])),
        r"have \d+ bytes instead",
    ),
    "network of 10**9 weights": (
        lambda p, _: told(
            p,
            architecture={
                "name": "compact",
                "options": {"widths": [60000] * 3, "kernels": [3] * 3, "strides": [2] * 3},
            },
        ),
        "are not of",
    ),
    "network of ten thousand layers": (
        lambda p, _: told(p, architecture={"name": "compact", "options": {"widths": [1] * 10**4}}),
        "say architecture",
    ),
    "network of fewer than no weights": (
        lambda p, _: told(
            p, architecture={"name": "compact", "options": {"widths": [-1] * 3, "kernels": [3] * 3, "strides": [2] * 3}}
        ),
        "which cannot be built",
    ),
    "options that are code": (
        lambda p, _: told(p, architecture={"name": "compact", "options": {"widths": "__import__('os')"}}),
        "say arch",
    ),
    "facts nested 10,000 deep": (
        lambda p, _: p.with_suffix(".json").write_text("[" * 10_000 + "]" * 10_000),
        "are no JSON",
    ),
    "facts of 17 MB": (lambda p, _: p.with_suffix(".json").write_text(" " * (17 << 20)), r"have \d+ bytes"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights__of_strangers_are_data(tmp_path: Path, store: Path, trap: Path, small_memory: None, case: str) -> None:
    path = weights(tmp_path)
    change, match = WEIGHTS[case]
    change(path, trap)
    line = refusal(
        ["train", str(store), "--labels", "prior", "--out", str(tmp_path / "o.safetensors"), "--start", str(path)]
    )
    assert re.search(match, line), line
    assert len(line) < 1000


def test_weights__pickles_by_name(tmp_path: Path, store: Path, trap: Path) -> None:
    pickled(tmp_path / "net.pt", trap)
    out = tmp_path / "o.safetensors"
    refusal(["train", str(store), "--labels", "prior", "--out", str(out), "--start", str(tmp_path / "net.pt")])
    assert not out.exists()


# Arrays of numpy.


@pytest.mark.parametrize("kind", ["object array", "bare pickle", "archive"])
def test_mask__that_is_a_pickle(tmp_path: Path, trap: Path, kind: str) -> None:
    path = tmp_path / "mask.npy"
    objects = np.array([Trap(trap)], dtype=object)
    if kind == "object array":
        np.save(path, objects, allow_pickle=True)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    else:
        np.savez(path.with_suffix(".npz"), a=objects)
        path.with_suffix(".npz").rename(path)
    with pytest.raises(InputError, match="is no array that can be read"):
        read_mask("strong", str(path))


def test_mask__that_declares_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "mask.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|b1", "fortran_order": False, "shape": (1 << 30, 1 << 30)}
        )
    with pytest.raises(InputError, match="is no array that can be read"):
        read_mask("strong", str(path))


# YAML and its like.

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "code": "!!python/object/apply:os.system ['touch {trap}']\n",
    "code as a value": "name: !!python/object/new:os.system ['touch {trap}']\n",
    "bomb of aliases": BOMB,
    "nested 3,000 deep": "[" * 3_000,
    "nested by indentation": "".join(f"{' ' * depth}- \n" for depth in range(2000)),
    "2 MB of keys": "".join(f"key{k}: 1\n" for k in range(200_000)),
    "itself": "a: &a {{b: *a}}\n",
}
DOORS: dict[str, tuple[str, ...]] = {
    "recipe": ("run", "FILE", "STORE"),
    "checked recipe": ("check", "FILE", "STORE"),
    "cluster": ("run", "maps", "STORE", "--cluster", "FILE"),
    "beamline": ("ingest", "m.h5", "OUT", "--beamline", "FILE"),
    "labels": ("train", "STORE", "--labels", "FILE", "--out", "w.safetensors", "--start", "none"),
    "night": ("nightly", "FILE"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", YAML)
def test_yaml__is_data_through_every_door(
    tmp_path: Path, store: Path, trap: Path, monkeypatch: pytest.MonkeyPatch, door: str, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bliss(tmp_path / "m.h5", shape=(3,))
    path = tmp_path / "own.yaml"
    path.write_text(YAML[case].format(trap=trap))
    paths = {"FILE": path, "STORE": store, "OUT": tmp_path / "out.zarr"}
    line = refusal([str(paths.get(word, word)) for word in DOORS[door]])
    assert "own.yaml" in line
    assert len(line) < 1000
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(
    "text", ["z," * 200_000 + "class\n", 'z,class\n"' + "9" * 500_000, "z,class\n" + "9" * 9000 + ",weak\n"]
)
def test_labels__that_are_too_much(tmp_path: Path, store: Path, small_memory: None, text: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    line = refusal(
        ["train", str(store), "--labels", str(path), "--out", str(tmp_path / "w.safetensors"), "--start", "none"]
    )
    assert "own.csv" in line


# HDF5: no byte of a file outside is read. See tests/store/test_links.py for every kind of link.


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret.h5", "near.h5", "sub/../../secret.h5"])
def test_link__that_leads_out_shows_nothing_of_its_target(tmp_path: Path, target: str) -> None:
    (tmp_path / "scan" / "sub").mkdir(parents=True)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.full((30, 12, 10), 4242, "u2")
    (tmp_path / "scan" / "near.h5").symlink_to(tmp_path / "secret.h5")
    path = write_bliss(tmp_path / "scan" / "m.h5", link="instrument").path
    with h5py.File(path, "a") as file:
        del file["1.1/instrument/pco_ff/data"]
        file["1.1/instrument/pco_ff/data"] = h5py.ExternalLink(target, "data")
    line = refusal(["ingest", str(path), str(tmp_path / "out.zarr")])
    assert re.search(r"outside .*declare its folder with --root", line)
    assert "root:" not in line


def test_link__to_a_motor_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["mu"] = 0.29 + 0.001 * np.arange(30)
    path = write_bliss(tmp_path / "scan" / "m.h5", positioner="absent").path
    with h5py.File(path, "a") as file:
        file["1.1/instrument/mu/value"] = h5py.ExternalLink("../secret.h5", "mu")
    assert "outside" in refusal(["ingest", str(path), str(tmp_path / "out.zarr")])


@pytest.mark.parametrize(
    "words",
    [
        ("--scan", "../../x"),
        ("--scan", "/1.1/../../etc"),
        ("--detector", "../../../etc/passwd"),
        ("--detector", "/../x"),
        ("--motor", "mu=../../x"),
        ("--motor", "mu=a/b"),
        ("--motor", "mu=raw"),
        ("--motor", "mu=c\x1b[2J"),
        ("--beamline", "../../../etc/passwd"),
    ],
)
def test_name__that_climbs_is_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    line = refusal(["ingest", str(path), str(tmp_path / "out.zarr"), *words])
    assert "root:" not in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.h5"]


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a\0b"])
def test_recipe__names_are_no_paths(tmp_path: Path, store: Path, name: str) -> None:
    with pytest.raises(RecipeError):
        read_recipe(name)
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"name": name, "steps": [{name: {}}]}))
    refusal(["run", str(path), str(store)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.yaml", "s.zarr"]


# What ends up on a terminal.


def steers(text: str) -> bool:
    return printable(text) != text or "\x1b" in text


def test_sample_name__does_not_steer_the_terminal(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", shape=(3,)).path
    with h5py.File(path, "a") as file:
        del file["1.1/sample/name"]
        file["1.1/sample/name"] = f"steel {ESCAPE}"
        file["1.1/instrument/positioners/samz"].attrs["units"] = "mm"
    result = call("ingest", path, tmp_path / "s.zarr")
    assert result.exit_code == 0, result.output
    shown = call("info", tmp_path / "s.zarr")
    assert shown.exit_code == 0
    assert "steel" in shown.output
    assert not steers(shown.output + result.output)
    assert "\x1b" not in (tmp_path / "s.zarr/zarr.json").read_text().encode().decode("unicode_escape")


def test_title_of_a_store__does_not_steer_the_terminal(store: Path) -> None:
    meta("", lambda m: m["attributes"].update(title=f"steel {ESCAPE}"))(store)
    meta("raw/counts", lambda m: m["attributes"].update(units=f"count{ESCAPE}"))(store)
    meta("raw", lambda m: m["attributes"]["provenance"]["ingest"].update(parameters={f"a{ESCAPE}": ESCAPE}))(store)
    shown = call("info", store)
    assert shown.exit_code in (0, 3), shown.output  # 3: it is not what was written
    assert "steel" in shown.output
    assert not steers(shown.output)


@pytest.mark.parametrize("maker", ["title", "EDF", "recipe", "units"])
def test_refusal__does_not_steer_the_terminal(tmp_path: Path, store: Path, maker: str) -> None:
    if maker == "title":
        words = ["ingest", str(write_bliss(tmp_path / "m.h5", title=f"fscan9 {ESCAPE}", parameters=False).path)]
    elif maker == "units":
        path = write_bliss(tmp_path / "m.h5").path
        with h5py.File(path, "a") as file:
            file["1.1/instrument/positioners/samz"].attrs["units"] = ESCAPE
        write_bliss(tmp_path / "n.h5", layers=2)
        words = ["ingest", str(path)]
    elif maker == "EDF":
        write_edf(tmp_path / "edf", known_counts(2), title=f"zscan {ESCAPE}", motors={"mu": np.zeros(2)})
        words = ["ingest", str(tmp_path / "edf")]
    else:
        (tmp_path / "own.yaml").write_text('name: a\nsteps:\n- moments: {background: "\\e[2J"}\n')
        words = ["check", str(tmp_path / "own.yaml")]
    line = refusal([*words, str(store if maker == "recipe" else tmp_path / "out.zarr")])
    assert not steers(line)


def test_entry__whose_names_steer_a_terminal(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with h5py.File(path, "a") as file:
        del file["1.1/measurement/pco_ff"]
        file[f"1.1/measurement/camera{ESCAPE}"] = h5py.ExternalLink("lost.h5", "x")
    assert not steers(refusal(["ingest", str(path), str(tmp_path / "out.zarr")]))


def test_unit__that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bliss(tmp_path / "m.h5").path

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("can't read attribute")

    monkeypatch.setattr("h5py.AttributeManager.get", broken)
    with pytest.raises(SourceError, match=r"unit of /1\.1/instrument/mu/value of .*m\.h5 cannot be read"):
        read_scan(path, "1.1", beamline=BEAMLINE)


def test_scan__texts_with_nul_bytes(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with h5py.File(path, "a") as file:
        del file["1.1/title"]
        file["1.1"].create_dataset("title", data=np.bytes_(b"fscan m\xffu 0.29 0.001 30 0.5\x00\x00x"))
    with pytest.raises(SourceError) as caught:
        read_scan(path, "1.1", beamline=BEAMLINE)
    assert "\0" not in str(caught.value)


def test_attacks__are_as_many_as_promised() -> None:
    assert len(WEIGHTS) + len(YAML) * len(DOORS) >= 50
