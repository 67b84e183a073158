"""The server without a browser: who may ask, what is refused and how, and what the answers contain."""

from __future__ import annotations

import http.client
import json
import shutil
import socket as sockets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.view.browser import opening
from dfxm_dask.view.browser.labels import labels_path
from tests.view.browser.conftest import SIZE, TOKEN, Served, maps

Answer = tuple[int, dict[str, str], bytes]
API = (
    "stores", "catalogue/0", "version/0", "image/0/raw/counts", "curve/0?z=0", "section/0/raw/counts?rows=z",
    "navigator/0", "scene/0", "tracks/0", "preview/0?z=0", "labels/0", "job",
)  # fmt: skip


def ask(
    port: int, path: str, method: str = "GET", body: Any = None, *, token: str | None = TOKEN, **headers: str
) -> Answer:
    """One request, whose path is sent as it is."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    words = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        words["X-Dfxm-Token"] = token
    try:
        link.request(method, path, json.dumps(body) if body is not None else None, words)
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        link.close()


def error_of(answer: Answer) -> str:
    text = str(json.loads(answer[2])["error"])
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.fixture
def port(served: Callable[..., Served], rocked: Path) -> int:
    return served(rocked).port


@pytest.mark.parametrize("path", API)
def test_api__needs_the_token(port: int, path: str) -> None:
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "t", "é" * 8):
        assert ask(port, f"/api/{path}", token=token)[0] == 403
    assert ask(port, f"/api/{path}{'&' if '?' in path else '?'}token={TOKEN}", token=None)[0] == 403
    assert ask(port, f"/api/{path}", token=None, Cookie=f"X-Dfxm-Token={TOKEN}")[0] == 403


def test_page__needs_no_token_and_names_nothing(port: int) -> None:
    code, headers, body = ask(port, "/", token=None)
    assert code == 200
    assert b"s.zarr" not in body
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:80", "", "[::2]"])
def test_hosts__foreign_names_are_refused(port: int, host: str) -> None:
    for path in ("/", "/api/stores", "/static/main.js"):
        assert ask(port, path, Host=host)[0] in (400, 403)


def test_hosts__names_of_a_proxy_can_be_allowed(served: Callable[..., Served], rocked: Path) -> None:
    port = served(rocked, hosts=("hub.example",)).port
    assert ask(port, "/api/stores", Host="hub.example")[0] == 200
    assert ask(port, "/api/stores", Host="hub.example:443", Origin="https://hub.example")[0] == 200
    assert ask(port, "/api/stores", Host="other.example")[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"])
def test_origins__foreign_ones_are_refused(port: int, origin: str) -> None:
    assert ask(port, "/api/stores", Origin=origin)[0] == 403
    assert ask(port, "/api/labels/0", "POST", {"entries": [], "digest": ""}, Origin=origin)[0] == 403
    assert ask(port, "/api/stores", Origin=f"http://127.0.0.1:{port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2f..%2fserver.py",
        "/static/vendor/../../server.py", "/static//etc/passwd", "/static/....//server.py", "/static/server.py%00.js",
        "/etc/passwd", "/api", "/api/nothing", "/api/image/0/raw", "/api/image/0/raw/../counts",
        "/api/image/0/..%2Fraw/counts", "/api/image/-1/raw/counts", "/api/catalogue/x", "/static/none.js",
    ],
)  # fmt: skip
def test_paths__nothing_outside_is_reached(port: int, path: str) -> None:
    code, _, body = ask(port, path)
    assert code in (400, 404)
    assert b"tornado" not in body
    assert b"root:" not in body


@pytest.mark.parametrize(
    "query",
    [
        "image/0/raw/counts?step=--5", "image/0/raw/counts?step=0", "image/0/raw/counts?step=1e3",
        "image/0/raw/counts?step=99999999999999999999", "image/0/raw/counts?step=%D9%A3",
        "image/0/raw/counts?box=1,2,3", "image/0/raw/counts?box=5,5,0,9", "image/0/raw/counts?box=0,151,0,9",
        "image/0/raw/counts?box=-1,2,0,9", "image/0/raw/counts?box=a,b,c,d", "image/0/raw/counts?box=",
        "image/0/raw/counts?at=z:3", "image/0/raw/counts?at=z:-1", "image/0/raw/counts?at=z:%F0%9F%98%80",
        "image/0/raw/counts?at=z", "image/0/raw/counts?at=z:0x1", "image/0/raw/counts?form=gif",
        "image/0/raw/counts?form=jpeg", "image/0/raw/counts?form=jpeg&low=nan&high=1",
        "image/0/raw/counts?form=jpeg&low=0&high=inf", "image/0/raw/counts?form=jpeg&low=0&high=9&scale=cube",
        "image/0/raw/nothing", "image/0/raw/monitor", "image/7/raw/counts", "catalogue/9", "version/9", "curve/0",
        "curve/0?z=3", "curve/0?z=a", "curve/0?z=0&box=0,1", "section/0/raw/counts", "section/0/raw/counts?rows=y",
        "section/0/raw/counts?rows=q", "section/0/raw/counts?rows=z&y=150",
        "section/0/raw/counts?rows=z&y=0&first=9&last=3",
        "section/0/raw/counts?rows=z&most=1", "section/0/raw/patch_sum?rows=phi", "preview/0?z=0", "preview/0?z=99",
        "image/0/raw/counts?step=%ff",
    ],
)  # fmt: skip
def test_queries__junk_is_refused_in_one_line(port: int, query: str) -> None:
    answer = ask(port, f"/api/{query}")
    assert answer[0] == 400
    assert 5 < len(error_of(answer)) <= 500


@pytest.mark.parametrize("body", [None, [], 3, "x", {}, {"entries": 3}, {"entries": [3]}, {"entries": [{"z": "<b>"}]}])
def test_labels__junk_is_refused(port: int, rocked: Path, body: Any) -> None:
    answer = ask(port, "/api/labels/0", "POST", body)
    assert answer[0] == 400
    assert error_of(answer)
    assert not labels_path(rocked).exists()


def test_bodies__too_large_and_broken_are_refused(port: int) -> None:
    with sockets.create_connection(("127.0.0.1", port), 30) as link:
        link.sendall(b"POST /api/job HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1000)
        assert link.recv(4096).split(b"\r\n")[0].split()[1:2] in ([b"400"], [b"413"], [])
    with sockets.create_connection(("127.0.0.1", port), 30) as link:
        deep = b"[" * 100_000
        head = (
            f"POST /api/job HTTP/1.1\r\nHost: localhost\r\nX-Dfxm-Token: {TOKEN}\r\nContent-Length: {len(deep)}\r\n\r\n"
        )
        link.sendall(head.encode() + deep)
        assert link.recv(4096).split()[1] == b"400"
    for job in ({"kind": "rm"}, {"kind": "run", "recipe": "../x"}, {"kind": "train"}, {"store": -1}, {"store": "0"}):
        assert ask(port, "/api/job", "POST", job)[0] == 400
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "POST"):
        assert ask(port, "/api/stores", method)[0] in (400, 404, 405)


@pytest.mark.parametrize("name", list(maps(1, (2, 2))))
def test_image__is_the_store(port: int, name: str) -> None:
    for box in ((0, *SIZE[:1], 0, SIZE[1]), (149, 150, 209, 210), (15, 45, 60, 75)):
        code, headers, body = ask(port, f"/api/image/0/rocking/{name}?at=z:2&box={','.join(map(str, box))}")
        assert code == 200
        shape = tuple(map(int, headers["X-Shape"].split(",")))
        got = np.frombuffer(body, headers["X-Dtype"]).reshape(shape)
        y0, y1, x0, x1 = box
        np.testing.assert_array_equal(got, maps()[name][2, y0:y1, x0:x1])


def test_curve__is_the_store_and_its_fit_is_the_reduction(port: int, rocked: Path) -> None:
    found = json.loads(ask(port, "/api/curve/0?z=1&box=40,55,100,115")[2])
    counts = dfxm_dask.open_scan(rocked, chunks=None)["raw"].counts[1, :, 40:55, 100:115]
    np.testing.assert_allclose(found["counts"], counts.values.mean((1, 2)), atol=1e-4)


def test_stores__deleted_and_damaged_ones_are_said(served: Callable[..., Served], uneven: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(uneven, store)
    port = served(store).port
    assert ask(port, "/api/image/0/raw/counts")[0] == 200
    for shard in (store / "raw/counts/c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    answer = ask(port, "/api/image/0/raw/counts?step=2")
    assert answer[0] == 400
    assert "is missing" in error_of(answer)
    shutil.rmtree(store)
    for path in ("image/0/raw/counts", "version/0", "catalogue/0", "curve/0?z=0", "labels/0"):
        answer = ask(port, f"/api/{path}")
        assert answer[0] == 410
        assert answer[1]["Cache-Control"] == "no-store"
        assert "no longer exists" in error_of(answer)


def test_socket__only_its_owner_can_open_it(served: Callable[..., Served], uneven: Path, tmp_path: Path) -> None:
    path = tmp_path / "view.sock"
    served(uneven, socket=path)
    state = path.stat()
    assert stat.S_ISSOCK(state.st_mode)
    assert stat.S_IMODE(state.st_mode) == 0o600
    with sockets.socket(sockets.AF_UNIX) as link:
        link.connect(str(path))
        link.sendall(f"GET /api/stores HTTP/1.1\r\nHost: localhost:8801\r\nX-Dfxm-Token: {TOKEN}\r\n\r\n".encode())
        assert link.recv(4096).startswith(b"HTTP/1.1 200")


def test_labels__those_of_other_stores_in_the_file_stay(
    served: Callable[..., Served], uneven: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(uneven, store)
    file = labels_path(store)
    file.write_text("- {z: 5, phi: 1, class: weak, store: other.zarr}\n- {z: 0, phi: 0.302, class: strong}\n")
    before = file.read_text()
    port = served(store).port
    known = json.loads(ask(port, "/api/labels/0")[2])
    assert [one["class"] for one in known["entries"]] == ["strong"]
    one = {**known["entries"][0], "class": "weak"}
    made = ask(port, "/api/labels/0", "POST", {"entries": [one], "digest": known["digest"]})
    assert made[0] == 200
    assert "other.zarr" in file.read_text()
    stale = ask(port, "/api/labels/0", "POST", {"entries": [one], "digest": known["digest"]})
    assert stale[0] == 400
    assert "changed by another page" in error_of(stale)
    assert file.read_text() != before


def test_fragment__positions_are_checked(uneven: Path) -> None:
    _, first = opening.checked([uneven])
    assert opening.fragment("abc", "z=0,phi=0.31", first) == "token=abc&z=0&phi=0.31"
    for at in ("q=1", "phi", "phi=x"):
        with pytest.raises(InputError, match="--at"):
            opening.fragment("abc", at, first)
    with pytest.raises(InputError, match="named twice"):
        opening.checked([uneven, uneven.parent / "." / uneven.name])


def test_proxied__is_the_proxy_of_a_hub_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    assert opening.proxied(81) == "http://localhost:81/"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    assert opening.proxied(81) == "/user/me/proxy/81/"
