"""Networks of segments: files of ParaDiS and ExaDiS, interpolated far fields, periodic images, and scans of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.optics.defects import network as networks
from dfxm_dask.optics.defects.network import Network, network_distance, network_field, placed
from dfxm_dask.optics.defects.paradis import read_network
from dfxm_dask.optics.defects.scene import Elastic, Loop, Scene, distortion, line_points
from dfxm_dask.optics.defects.segments import network_gradient, polygon_loop
from dfxm_dask.optics.defects.stroh import stroh
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.scans import simulate

POISSON = 0.334
JUNCTION = """dataFileVersion = 5
numFileSegments = 1
minCoordinates = [
  -50.0
  -35.0
  -25.0
  ]
maxCoordinates = [
  50.0
  35.0
  25.0
  ]
nodeCount = 5
dataDecompType = 2
dataDecompGeometry = [
  1
  1
  1
  ]
#
#  END OF DATA FILE PARAMETERS
#
domainDecomposition =
# Dom_ID  Minimum XYZ bounds   Maximum XYZ bounds
  0  -50.0  -35.0  -25.0  50.0  35.0  25.0
nodalData =
# Primary lines: node_tag, x, y, z, num_arms, constraint
# Secondary lines: arm_tag, burgx, burgy, burgz, nx, ny, nz
0,    0  -20.0 -10.0   0.0    3    0
         0,    2   0.577350269   0.577350269   0.577350269
                   0.408248290  -0.816496581   0.408248290
         0,    3  -0.577350269  -0.577350269   0.577350269
                  -0.408248290  -0.408248290  -0.816496581
         0,    4   0.000000000   0.000000000  -1.154700538
                  -0.400818834  -0.916157335   0.000000000
0,    1   48.0  10.0   3.0    3    0
         0,    2  -0.577350269  -0.577350269  -0.577350269
                   0.408248290  -0.816496581   0.408248290
         0,    3   0.577350269   0.577350269  -0.577350269
                  -0.408248290  -0.408248290  -0.816496581
         0,    4   0.000000000   0.000000000   1.154700538
                  -0.400818834  -0.916157335   0.000000000
0,    2   10.0  12.0   5.0    2    0
         0,    0  -0.577350269  -0.577350269  -0.577350269
                   0.408248290  -0.816496581   0.408248290
         0,    1   0.577350269   0.577350269   0.577350269
                   0.408248290  -0.816496581   0.408248290
0,    3   10.0  -9.0  -5.0    2    0
         0,    0   0.577350269   0.577350269  -0.577350269
                  -0.408248290  -0.408248290  -0.816496581
         0,    1  -0.577350269  -0.577350269   0.577350269
                  -0.408248290  -0.408248290  -0.816496581
0,    4  -44.0  -3.0   1.0    2    0
         0,    0   0.000000000   0.000000000   1.154700538
                  -0.400818834  -0.916157335   0.000000000
         0,    1   0.000000000   0.000000000  -1.154700538
                  -0.400818834  -0.916157335   0.000000000
"""
LAW = {"burgers_length": 2.48e-4, "core": 1e-3, "kind": "bcc"}


def read(folder: Path, text: str, name: str = "net.data", **law) -> Network:
    path = folder / name
    path.write_text(text)
    return read_network(path, **(LAW | law))


def loops(count: int, size: float, seed: int = 0, **options) -> Network:
    rng = np.random.default_rng(seed)
    nodes = [
        polygon_loop(size * rng.uniform(size=3), rng.normal(size=3), rng.uniform(0.2, 0.6), 8) for _ in range(count)
    ]
    first = np.arange(8 * count).reshape(count, 8)
    burgers = 2.86e-4 * np.repeat(rng.normal(size=(count, 3)), 8, axis=0)
    given = {"core": 1e-3, "cell": np.zeros((3, 3)), "origin": np.zeros(3)} | options
    joined = np.stack([first, np.roll(first, -1, axis=1)], axis=-1).reshape(-1, 2)
    return Network(np.concatenate(nodes), joined, burgers, np.zeros_like(burgers), **given)


def test_read_network__a_junction_across_a_face(tmp_path):
    found = read(tmp_path, JUNCTION)
    np.testing.assert_allclose(found.nodes[0], 2.48e-4 * np.array([-20, -10, 0]))
    assert found.segments.tolist() == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]
    lengths = np.linalg.norm(found.burgers, axis=1) / 2.48e-4
    np.testing.assert_allclose(lengths, [1, 1, 2 / np.sqrt(3)] * 2, rtol=1e-12)  # exact lattice vectors
    start, end = found.ends
    assert found.images == 1
    np.testing.assert_allclose((end - start)[5] / 2.48e-4, [8, -13, -2], atol=1e-9)  # from 48 across the face at 50
    assert read(tmp_path, JUNCTION, periodic=False).images == 0


def test_read_network__older_and_split_files_agree(tmp_path):
    new = read(tmp_path, JUNCTION)
    head, _, body = JUNCTION.partition("nodalData =")
    old = "2\n1  # segments\n-50 -35 -25\n50 35 25\n5\n1 1 1\n-50\n  -35\n    -25\n    25\n  35\n50\n" + body
    first = "1\n-50 -35 -25\n50 35 25\n1 1 1\n-50\n  -35\n    -25\n    25\n  35\n50\n5\n" + body
    nodes = body.split("\n0,    3")
    (tmp_path / "split.data.1").write_text("0,    3" + nodes[1])
    (tmp_path / "split.data.0").write_text(head.replace("Segments = 1", "Segments = 2") + "nodalData =" + nodes[0])
    same = [read(tmp_path, old, "old.data"), read(tmp_path, first, "first.data")]
    same.append(read_network(tmp_path / "split.data", **LAW))
    for other in same:
        for name in ("nodes", "segments", "burgers", "normals", "cell", "origin"):
            np.testing.assert_array_equal(getattr(other, name), getattr(new, name))


LINES = JUNCTION.splitlines()


def changed(line: int, before: str, after: str) -> str:
    """The file with a change in one line, counted from 1."""
    assert before in LINES[line - 1]
    return "\n".join([*LINES[: line - 1], LINES[line - 1].replace(before, after), *LINES[line:]]) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (changed(26, "nodalData", "other"), "has no nodalData"),
        (changed(29, "-20.0", "-2x0.0"), "line 29: '-2x0.0' is not a number"),
        (changed(29, "-20.0", "nan"), "line 29: 'nan' is not a number"),
        ("\n".join(LINES[:-3]) + "\n", "ends after line 54, within the arms of node 0,4"),
        (changed(13, "5", "6"), "announces 6 nodes and lists 5"),
        (changed(36, "0,    1", "0,    0"), "line 36: node 0,0 repeats"),
        (changed(30, "0,    2", "0,    7"), "line 30: an arm leads to node 0,7, which does not exist"),
        (changed(30, "0,    2", "0,    0"), "line 30: an arm leads to node 0,0, which is its own node"),
        (
            changed(30, "0,    2   0.577", "0,    2  -0.577"),
            "line 30: the other end lists the Burgers vector .*line 44",
        ),
        (changed(30, "0,    2", "0,    1"), "line 30: the other end lists no such arm"),
        (changed(4, "-50.0", "60.0"), "give a cell with a volume"),
    ],
)
def test_read_network__refuses_broken_files(tmp_path, text, words):
    with pytest.raises(SourceError, match=words):
        read(tmp_path, text)


def test_read_network__checks_burgers_vectors(tmp_path):
    with pytest.raises(SourceError, match="not a lattice vector of fcc"):
        read(tmp_path, JUNCTION, kind="fcc")
    longer = JUNCTION.replace("1.154700538", "2.309401077")  # a lattice vector, but the sum is not zero
    with pytest.raises(SourceError, match=r"line 29: the Burgers vectors that leave the node sum to \[0.0, 0.0, -1.15"):
        read(tmp_path, longer)
    pinned = longer.replace("3    0", "3    7")
    assert len(read(tmp_path, pinned).segments) == 6
    (tmp_path / "binary.data").write_bytes(b"\x89HDF\xff")
    with pytest.raises(SourceError, match="binary restart files"):
        read_network(tmp_path / "binary.data", **LAW)
    with pytest.raises(SourceError, match="no such file"):
        read_network(tmp_path / "none.data", **LAW)
    for wrong, words in (({"kind": "hcp"}, "is unknown"), ({"burgers_length": 2.48e-10}, "not metres")):
        with pytest.raises(InputError, match=words):
            read(tmp_path, JUNCTION, **wrong)


def test_network_field__is_the_sum_over_the_segments(monkeypatch):
    monkeypatch.setattr(networks, "FEW", 100)
    net = loops(60, 4.0)
    points = np.random.default_rng(1).uniform(-0.5, 4.5, (600, 3)) * [0.5, 1, 0.05] + [0, 0, 1.9]
    direct = network_gradient(points, net.nodes, net.segments, net.burgers, poisson=POISSON, core=net.core)
    x, y, z = np.ascontiguousarray(points.T)
    found = network_field(net, x, y, z, POISSON)
    assert {key[0] for key in net.cubes.found} >= {0, 1, 2}
    assert np.abs(found.T.reshape(-1, 3, 3) - direct).max() < 2e-8
    np.testing.assert_array_equal(network_field(net, x[7:9], y[7:9], z[7:9], POISSON), found[:, 7:9])
    other = network_gradient(points[:5], net.nodes, net.segments, net.burgers, poisson=0.1, core=net.core)
    np.testing.assert_allclose(network_field(net, x[:5], y[:5], z[:5], 0.1).T.reshape(-1, 3, 3), other, atol=2e-8)
    sample, _ = line_points(Scene(POISSON, network=net), np.array([[-9.0] * 3, [9.0] * 3]), 0.01)
    nearest = np.linalg.norm(points[:50, None] - sample, axis=-1).min(1)
    np.testing.assert_allclose(network_distance(net, x[:50], y[:50], z[:50]), nearest, atol=0.005)


def test_network_field__of_periodic_loops_is_a_long_explicit_sum():
    cell, net = np.diag([2.0, 2.4, 1.8]), loops(1, 0.3)
    repeated = loops(1, 0.3, cell=cell, shells=2)
    rng = np.random.default_rng(2)
    x, y, z = np.ascontiguousarray((rng.uniform(size=(40, 3)) @ cell).T)
    many = np.stack(np.meshgrid(*(np.arange(-9, 10),) * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    nodes = (net.nodes + many[:, None]).reshape(-1, 3)
    joined = (net.segments + 8 * np.arange(len(many))[:, None, None]).reshape(-1, 2)
    burgers = np.tile(net.burgers, (len(many), 1))
    points = np.stack([x, y, z], 1)
    explicit = network_gradient(points, nodes, joined, burgers, poisson=POISSON, core=1e-3).reshape(-1, 9).T
    found = network_field(repeated, x, y, z, POISSON)
    # The sum converges but for a constant, which depends on its order.
    assert np.abs(np.diff(found - explicit, axis=1)).max() < 2e-3 * explicit.std()


def test_network_field__is_periodic_has_no_mean_and_closes_to_b(tmp_path):
    net = read(tmp_path, JUNCTION, shells=2)
    low = np.random.default_rng(3).uniform(size=(20, 3))
    low[:, 0] = 1e-9
    points = np.ascontiguousarray((low @ net.cell + net.origin).T)
    first, last = (network_field(net, *(points + k * net.cell[0][:, None]), POISSON) for k in (0, 1 - 2e-9))
    assert np.abs(first - last).max() < 1e-2 * first.std()
    wide = read(tmp_path, JUNCTION, shells=2, core=3e-3)
    side = (np.arange(14) + 0.5) / 14
    grid = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3) @ wide.cell + wide.origin
    beta = network_field(wide, *np.ascontiguousarray(grid.T), POISSON)
    assert np.abs(beta.mean(1)).max() < 2e-3 * beta.std()
    # A ring about the arm from node 0 to node 2.
    t = net.nodes[2] - net.nodes[0]
    t /= np.linalg.norm(t)
    e1 = np.cross(t, [0, 0, 1.0]) / np.linalg.norm(np.cross(t, [0, 0, 1.0]))
    angle = 2 * np.pi * np.arange(400)[:, None] / 400
    middle, radius = (net.nodes[0] + net.nodes[2]) / 2, 1e-3
    ring = middle + radius * (np.cos(angle) * e1 + np.sin(angle) * np.cross(t, e1))
    step = radius * (np.cos(angle) * np.cross(t, e1) - np.sin(angle) * e1) * 2 * np.pi / 400
    sharp = read(tmp_path, JUNCTION, shells=1, core=1e-6)
    beta = network_field(sharp, *np.ascontiguousarray(ring.T), POISSON).T.reshape(-1, 3, 3)
    start, end = net.ends
    mean_nye = np.einsum("si,sj->ij", net.burgers, end - start) / np.linalg.det(net.cell)
    expected = net.burgers[0] - mean_nye @ t * np.pi * radius**2
    np.testing.assert_allclose(np.einsum("pij,pj->i", beta, step), expected, atol=3e-4 * 2.48e-4)


def test_network__placed_turns_the_field(tmp_path):
    net = read(tmp_path, JUNCTION, shells=1)
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    there = placed(net, turn, np.array([1.0, 2, 3]))
    points = np.random.default_rng(5).uniform(size=(30, 3)) @ net.cell
    before = network_field(net, *np.ascontiguousarray((points + net.origin).T), POISSON).T.reshape(-1, 3, 3)
    after = network_field(there, *np.ascontiguousarray((points @ turn.T + there.origin).T), POISSON).T.reshape(-1, 3, 3)
    np.testing.assert_allclose(after, turn @ before @ turn.T, atol=2e-3 * before.std())


def test_network__refuses():
    for options, words in (({"core": 0.0}, "core radius above zero"), ({"shells": 1}, "periodic cell")):
        with pytest.raises(InputError, match=words):
            loops(1, 1.0, **options)
    with pytest.raises(InputError, match="contains no segment"):
        Network(
            np.zeros((0, 3)), np.zeros((0, 2), int), np.zeros((0, 3)), np.zeros((0, 3)), 1.0, np.eye(3), np.zeros(3)
        )


def test_simulate__a_network_from_a_file(tmp_path):
    path = tmp_path / "net.data"
    fcc = JUNCTION
    for old, new in (
        ("-0.577350269  -0.577350269   0.577350269", "-0.70710678 0.70710678 0"),
        ("0.577350269   0.577350269  -0.577350269", "0.70710678 -0.70710678 0"),
        ("-0.577350269  -0.577350269  -0.577350269", "-0.70710678 -0.70710678 0"),
        ("0.577350269   0.577350269   0.577350269", "0.70710678 0.70710678 0"),
        ("0.000000000   0.000000000  -1.154700538", "0 -1.41421356 0"),
        ("0.000000000   0.000000000   1.154700538", "0 1.41421356 0"),
    ):
        fcc = fcc.replace(old, new)
    path.write_text(fcc)
    (phantom,) = build("network", layers=1, shape=(16, 12), network=path)
    net = phantom.scene.network
    np.testing.assert_allclose(np.linalg.norm(net.burgers, axis=1) / 2.8634e-4, [1, 1, np.sqrt(2)] * 2, rtol=1e-4)
    middle = net.origin + net.cell.sum(0) / 2
    np.testing.assert_allclose(middle, [5.5 * phantom.pixel[1], 7.5 * phantom.pixel[0], 0.0], atol=1e-9)
    tree = simulate("network", layers=1, shape=(16, 12), network=path)
    assert tree["raw"].counts.isel(z=0, phi=15).compute().max() > 200
    assert tree["truth"].sizes["dislocation"] == 6
    with pytest.raises(InputError, match="has no network of segments"):
        build("easy", network=path)


def test_scene__elastic_lines_are_those_of_stroh():
    (phantom,) = build("movie", shape=(8, 8))
    made = phantom.scene.lines[:2].copy()
    made["position"] = [[0.3, 0.1, 0.0], [-0.4, 0.7, 0.0]]
    axes, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))
    moduli = (168.4, 121.4, 75.4)
    scene = Scene(0.324, lines=made, elastic=Elastic(moduli, axes))
    points = np.random.default_rng(7).normal(size=(40, 3))
    expected = stroh(points, made, moduli=moduli, axes=axes)
    np.testing.assert_allclose(distortion(scene, *points.T).T.reshape(-1, 3, 3), expected, atol=1e-15)
    with pytest.raises(InputError, match="straight lines only"):
        Scene(0.3, loops=(Loop(np.eye(3), np.ones(3), 1e-3),), elastic=Elastic(moduli, axes))
