"""Doctor: what is found of a machine and a folder, beside what the system itself says; and every way to fail."""

from __future__ import annotations

import resource
import socket
import subprocess
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest
from click.testing import CliRunner

from dfxm_dask.cli import cli
from dfxm_dask.errors import RecipeError
from dfxm_dask.run.checks import doctor as module
from dfxm_dask.run.checks.doctor import Finding, doctor


def by_name(findings: Any) -> dict[str, Finding]:
    found = list(findings)
    assert len({f.name for f in found}) == len(found)
    for finding in found:
        assert (finding.remedy == "") == (finding.state == "ok"), finding
    return {f.name: f for f in found}


def test_doctor__says_what_the_system_says_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    found = by_name(doctor(tmp_path))
    assert [f for f in found.values() if f.state == "fail"] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    assert str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) in found["open files"].found
    free = float(found["folder: free space"].found.split()[0]) * 1e9
    assert free == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.2)
    mounted = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True)
    kind = found["folder: file system"].found.rsplit(" on ", 1)[1].split(",")[0]
    assert kind[:3] in mounted.stdout.replace("overlayfs", "overlay")
    for name in ("write, fsync, rename", "appending", "hard links", "clock"):
        assert found[f"folder: {name}"].state == "ok"


def test_doctor__refuses_an_unknown_cluster(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="clusters configuration 'slrum'"):
        doctor(tmp_path, "slrum")


def test_doctor__command_exits_with_1_where_something_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "0 fail" in result.output
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path / "absent")])
    assert result.exit_code == 1
    assert "1 fail" in result.output
    assert "mkdir -p" in result.output
    result = CliRunner().invoke(cli, ["doctor", "--cluster", "nothing"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def test_packages__too_old_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    required = [
        "numpy>=2.0",
        "dask[array]>=2025.1",
        "torch>=2.10",
        "nothing-of-that-name>=1",
        "bokeh>=99; extra == 'v'",
    ]
    monkeypatch.setattr(module.metadata, "requires", lambda name: required)
    versions = {"numpy": "1.26.4", "dask": "2099.1.0", "torch": "2.9.1+cu128"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(module.metadata, "version", version)
    found = by_name(module.packages())
    assert found["package numpy"].remedy == "pip install 'numpy>=2.0'"
    assert found["package torch"].found == "is 2.9.1+cu128"
    assert found["package nothing-of-that-name"].found == "is not installed"
    assert "package bokeh" not in found
    assert "packages" not in found
    versions |= {"numpy": "2.4.6", "dask": "2026.8.0", "torch": "2.10"}
    required.remove("nothing-of-that-name>=1")
    assert [f.state for f in module.packages()] == ["ok"]

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "requires", absent)
    assert [f.found for f in module.packages()] == ["dfxm_dask is not installed"]


def test_codecs__a_wrong_round_trip_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {f.state for f in module.codecs()} == {"ok"}
    right = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda data, where: right(data, where)[::-1])
    monkeypatch.setattr("google_crc32c.implementation", "python")
    assert [(f.name, f.state) for f in module.codecs()] == [("HDF5 bitshuffle-LZ4", "fail"), ("crc32c", "warn")]


def test_asked__a_check_that_breaks_down_is_a_finding() -> None:
    def broken() -> Any:
        yield Finding("first", "ok", "")
        raise RuntimeError("no library")

    assert [(f.name, f.state, f.found) for f in module._asked(broken)] == [
        ("first", "ok", ""),
        ("broken", "fail", "RuntimeError: no library"),
    ]


def test_memory_and_cores__follow_the_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"cpu.max": "150000 100000", "memory.max": "2000000000"}
    monkeypatch.setattr(module, "_control_group", limits.__getitem__)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert module._cores() == 1.5
    (found,) = module.memory()
    assert found.found.startswith("2.0 GB")
    assert (found.state, "1.3 GB for each of 1.5 cores" in found.found) == ("warn", True)
    limits |= {"cpu.max": "max 100000", "memory.max": "max"}
    assert module._cores() == 8
    (found,) = module.memory()
    assert found.found.startswith(f"{psutil.virtual_memory().total / 1e9:.1f} GB")


def test_open_files__warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.resource, "getrlimit", lambda which: (256, 4096))
    assert [f.remedy for f in module.open_files()] == ["ulimit -n 1024"]


def test_gpu__that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = types.SimpleNamespace(stdout="NVIDIA A100, 81920 MiB\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *command, **how: answer)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (found,) = module.gpu()
    assert (found.state, found.found) == ("warn", "NVIDIA A100, 81920 MiB")
    assert found.remedy.startswith("install a torch with CUDA")


def test_place__raw_data_and_passing_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "RAW_DATA").mkdir()
    (found,) = module.place(tmp_path / "RAW_DATA")
    assert found.remedy == "write under PROCESSED_DATA"
    here = types.SimpleNamespace(mountpoint=str(tmp_path), fstype="tmpfs")
    root = types.SimpleNamespace(mountpoint="/", fstype="ext4")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [here, root])
    monkeypatch.setattr(module, "LEAST_FREE_BYTES", 10**18)
    monkeypatch.setattr(module, "LEAST_FREE_FILES", 10**18)
    found = by_name(module.place(tmp_path))
    assert "is in memory" in found["folder: file system"].remedy
    assert found["folder: free space"].state == "warn"
    assert found["folder: free inodes"].state in ("warn", "ok")


def test_place__that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "mkdtemp", refused)
    assert by_name(module.place(tmp_path))["folder: writing"].found == "is refused (Permission denied)"


def test_probes__see_a_file_system_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", lambda a, b: None)
        assert [f.state for f in module.commits(tmp_path)] == ["fail"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "SLOW_COMMIT", 0.0)
        assert [f.state for f in module.commits(tmp_path)] == ["warn"]
    with monkeypatch.context() as patch:  # as on old NFS, where each writer has an end of its own
        patch.setattr(module.os, "O_APPEND", 0)
        assert [f.found for f in module.appends(tmp_path)] == ["lines overwrite each other"]
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "link", lambda a, b: None)
        assert [f.found for f in module.links(tmp_path)] == ["a second link of the same name is accepted"]
        patch.setattr(module.os, "link", lambda a, b: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
        assert [f.found for f in module.links(tmp_path)] == ["are refused (Operation not permitted)"]
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "time", lambda: 1e9)
        assert [f.state for f in module.clock(tmp_path)] == ["warn"]


def setup_of(kind: str = "slurm", **own: Any) -> Any:
    return types.SimpleNamespace(**{"kind": kind, "interface": None, "shared_directory": None} | own)


def test_jobs__interface_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name(module.jobs(setup_of(interface="ib77")))["network interface"].state == "fail"
    assert list(module.jobs(setup_of("local"))) == []
    lonely = {"lo": [types.SimpleNamespace(family=socket.AF_INET, address="127.0.0.1")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: lonely)
    assert by_name(module.jobs(setup_of(interface="lo")))["network interface"].state == "fail"


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("slurm", ["sbatch", "scancel", "squeue"]),
        ("pbs", ["qsub", "qdel", "qstat"]),
        ("lsf", ["bsub", "bkill", "bjobs"]),
    ],
)
def test_jobs__commands_of_the_batch_system(
    kind: str, commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert by_name(module.jobs(setup_of(kind)))[kind.upper()].found == f"not found: {', '.join(commands)}"
    for name in commands:
        (tmp_path / name).touch(mode=0o755)
    shared = by_name(module.jobs(setup_of(kind, shared_directory=str(tmp_path / "absent"))))
    assert (shared[kind.upper()].state, shared["shared folder"].state) == ("ok", "fail")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "package dask-jobqueue" in by_name(module.jobs(setup_of(kind)))
