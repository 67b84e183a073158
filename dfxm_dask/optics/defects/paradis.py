"""Dislocation networks from the files of ParaDiS and ExaDiS (``.data``): nodes, and the arms between them.

A node lists its arms; each arm names the neighbour, the Burgers vector for the line sense towards the neighbour, and
the normal of the glide plane. Both ends list an arm, with opposite Burgers vectors. Lengths and Burgers vectors are in
units of the magnitude of the shortest Burgers vector (``burgMag``), which is not in the file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.optics.defects.network import Network

# Burgers vectors in files have 6 to 12 digits (our choice).
SAME = 1e-3
CUBIC = {"fcc": np.sqrt(2.0), "bcc": 2 / np.sqrt(3.0)}
"""Edge of the cell in units of the shortest lattice vector, a/2 <110> and a/2 <111>."""

UNITS = 1e-5, 0.01  # um: Burgers vectors of crystals are in between
POSITIONAL = 3  # newest version of the format that has positions instead of names


class _Token(NamedTuple):
    """One number or name of a file, and its line."""

    text: str
    line: int


def read_network(
    path: str | Path,
    *,
    burgers_length: float,
    core: float,
    kind: Literal["fcc", "bcc"] | None = "fcc",
    periodic: bool = True,
    shells: int | None = None,
) -> Network:
    """Network of dislocation segments from a file of ParaDiS or ExaDiS.

    Parameters
    ----------
    path : path
        A nodal data file, version 1 to 6, as text. Of a file in several segments (``numFileSegments``), the common
        name, or that of the first one, which ends in ``.0``.
    burgers_length : float, um
        Length of the shortest Burgers vector (``burgMag`` of the control file): the unit of all lengths in the file.
    core : float, um
        Core radius a > 0 of the field.
    kind : "fcc", "bcc" or None
        Lattice along whose cube axes the coordinates of the file lie: every Burgers vector has to be a lattice vector,
        also those of junctions, which are longer. None accepts any Burgers vector.
    periodic : bool
        Whether lines cross the faces of the cell; an arm then leads to the nearest image of its neighbour.
    shells : int, optional
        Shells of periodic images in the field. Default: one if an arm crosses a face, else none.

    Returns
    -------
    Network
        In the axes of the file, um.

    Raises
    ------
    InputError
        Parameters out of range.
    SourceError
        A file that cannot be read, with the line of the problem: a truncated file, values that are not numbers, nodes
        that repeat or do not exist, arms listed by one end only or with other Burgers vectors, a Burgers vector that is
        not a lattice vector, a free node where Burgers vectors do not sum to zero.

    References
    ----------
    Arsenlis et al. (2007), Modelling Simul. Mater. Sci. Eng. 15, 553 (ParaDiS); Bertin et al. (2024), Modelling Simul.
    Mater. Sci. Eng. 32, 055012 (ExaDiS).

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> text = '''dataFileVersion = 4
    ... numFileSegments = 1
    ... minCoordinates = [ -100 -100 -100 ]
    ... maxCoordinates = [ 100 100 100 ]
    ... nodeCount = 2
    ... nodalData =
    ... 0,0 0 0 -50 2 0
    ...   0,1  0.7071 0.7071 0   0 0 1
    ...   0,1 -0.7071 -0.7071 0  0 0 1
    ... 0,1 0 0 50 2 0
    ...   0,0 -0.7071 -0.7071 0  0 0 1
    ...   0,0 0.7071 0.7071 0    0 0 1
    ... '''
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "two.data")
    ...     _ = file.write_text(text)
    ...     network = read_network(file, burgers_length=2.86e-4, core=1e-3)
    >>> network.segments.tolist()
    [[0, 1], [0, 1]]
    """
    if kind is not None and kind not in CUBIC:
        raise InputError(f"network: kind {kind!r}", "is unknown", f"use one of {', '.join(CUBIC)}, or None")
    if not UNITS[0] <= burgers_length <= UNITS[1]:
        raise InputError(
            "network: burgers_length", f"is {burgers_length!r} um", "give um: 2.86e-4 for aluminium, not metres"
        )
    path = _first(Path(path))
    header, tokens = _contents(path, _text(path))
    for number in range(1, header["segments"]):
        if path.suffix != ".0":
            found = f"announces {header['segments']} file segments, but the name does not end in .0"
            raise SourceError(f"network file {path}", found, "keep the segments NAME.0, NAME.1, ... in one folder")
        tokens += _tokens(_text(path.with_suffix(f".{number}")))
    nodes, constraints, arms, lines = _records(path, tokens)
    if header["count"] is not None and header["count"] != len(nodes):
        found = f"announces {header['count']} nodes and lists {len(nodes)}"
        raise SourceError(f"network file {path}", found, "copy the whole file again")
    segments, burgers, normals = _paired(path, arms)
    if kind is not None:
        burgers = _on_lattice(path, burgers, kind, segments, lines)
    _check_balance(path, len(nodes), segments, burgers, constraints, lines)
    cell = np.diag(header["high"] - header["low"])
    length = float(burgers_length)
    return Network(
        nodes=nodes * length,
        segments=segments,
        burgers=burgers * length,
        normals=normals,
        core=float(core),
        cell=cell * length if periodic else np.zeros((3, 3)),
        origin=header["low"] * length,
        shells=shells,
    )


def _first(path: Path) -> Path:
    """The file itself, or the first of its segments."""
    first = path.with_name(f"{path.name}.0")
    return first if not path.exists() and first.exists() else path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        found = "is not text: binary restart files are not supported"
        raise SourceError(f"network file {path}", found, "write the text format (.data)") from error
    except OSError as error:
        raise SourceError(f"network file {path}", str(error.strerror).lower(), "check the path") from error


def _tokens(text: str) -> list[_Token]:
    """Numbers and names without comments; brackets, equals signs and commas only separate."""
    out = []
    for number, line in enumerate(text.splitlines(), start=1):
        out += [_Token(part, number) for part in re.split(r"[\s,=\[\]]+", line.partition("#")[0]) if part]
    return out


def _contents(path: Path, text: str) -> tuple[dict[str, Any], list[_Token]]:
    """Header (low and high corner, segments, nodes), and the tokens of the nodes."""
    tokens = _tokens(text)
    if not tokens:
        raise SourceError(f"network file {path}", "is empty", "copy the file again")
    if _is_number(tokens[0].text):
        return _positional(path, text, tokens)
    named_at = [place for place, token in enumerate(tokens) if not _is_number(token.text)]
    begin = next((place for place in named_at if tokens[place].text.lower() == "nodaldata"), None)
    named = {
        tokens[a].text.lower(): tokens[a + 1 : b] for a, b in zip(named_at, [*named_at[1:], len(tokens)], strict=True)
    }
    if begin is None:
        raise SourceError(f"network file {path}", "has no nodalData", "give a nodal data file, not a control file")
    low, high = (_vector(path, named, name) for name in ("mincoordinates", "maxcoordinates"))
    segments, count = (
        int(_number(path, named[name][0])) if named.get(name) else None for name in ("numfilesegments", "nodecount")
    )
    return _header(path, low, high, segments or 1, count), tokens[begin + 1 :]


def _vector(path: Path, named: dict[str, list[_Token]], name: str) -> np.ndarray:
    if len(named.get(name, ())) != 3:
        raise SourceError(f"network file {path}", f"has no three {name}", "give a nodal data file of ParaDiS")
    return np.array([_number(path, token) for token in named[name]])


def _positional(path: Path, text: str, tokens: list[_Token]) -> tuple[dict[str, Any], list[_Token]]:
    """Header of versions 1 to 3, whose first node is the first line with a comma."""
    version = _number(path, tokens[0])
    if not 1 <= version <= POSITIONAL:
        found = f"line {tokens[0].line}: version {tokens[0].text} without names is unknown"
        raise SourceError(f"network file {path}", found, "give a nodal data file of ParaDiS")
    lines = enumerate(text.splitlines(), start=1)
    begin = next((number for number, line in lines if "," in line.partition("#")[0]), None)
    head = [token for token in tokens if begin is None or token.line < begin]
    place = 1 if version == 1 else 2
    if begin is None or len(head) < place + 7:
        raise SourceError(f"network file {path}", "ends before the first node", "copy the whole file again")
    numbers = [_number(path, token) for token in head]
    low, high = np.array(numbers[place : place + 3]), np.array(numbers[place + 3 : place + 6])
    segments = 1 if version == 1 else int(numbers[1])
    count = int(numbers[-1] if version == 1 else numbers[place + 6])
    return _header(path, low, high, segments, count), tokens[len(head) :]


def _header(path: Path, low: np.ndarray, high: np.ndarray, segments: int, count: int | None) -> dict[str, Any]:
    if not (high > low).all():
        found = f"has the corners {low.tolist()} and {high.tolist()}"
        raise SourceError(f"network file {path}", found, "give a cell with a volume")
    return {"low": low, "high": high, "segments": segments, "count": count}


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _number(path: Path, token: _Token) -> float:
    if not _is_number(token.text):
        raise SourceError(
            f"network file {path}", f"line {token.line}: {token.text!r} is not a number", "correct the line"
        )
    return float(token.text)


Tag = tuple[int, int]
Arm = tuple[int, int, np.ndarray, np.ndarray, int]
"""Node, neighbour, Burgers vector, plane normal and line of the file."""


def _records(path: Path, tokens: list[_Token]) -> tuple[np.ndarray, np.ndarray, list[Arm], list[int]]:
    """Positions and constraints of the nodes, all arms, and the line of each node."""
    place = 0
    positions: list[list[float]] = []
    constraints: list[int] = []
    lines: list[int] = []
    number_of: dict[Tag, int] = {}
    named: list[tuple[int, Tag, list[float], int]] = []

    def take(count: int, what: str) -> list[float]:
        nonlocal place
        some = tokens[place : place + count]
        if len(some) < count:
            where = f"line {tokens[-1].line}" if tokens else "its header"
            raise SourceError(f"network file {path}", f"ends after {where}, within {what}", "copy the whole file again")
        place += count
        return [_number(path, token) for token in some]

    while place < len(tokens):
        line = tokens[place].line
        values = take(7, "a node")
        tag = (int(values[0]), int(values[1]))
        if tag in number_of or values[5] != int(values[5]) or values[5] < 0:
            found = f"node {tag[0]},{tag[1]} repeats" if tag in number_of else f"{values[5]} arms are impossible"
            raise SourceError(f"network file {path}", f"line {line}: {found}", "correct the line")
        node = number_of[tag] = len(positions)
        positions.append(values[2:5])
        constraints.append(int(values[6]))
        lines.append(line)
        for _ in range(int(values[5])):
            at = tokens[place].line if place < len(tokens) else line
            arm = take(8, f"the arms of node {tag[0]},{tag[1]}")
            named.append((node, (int(arm[0]), int(arm[1])), arm[2:], at))
    arms: list[Arm] = []
    for node, to, vectors, at in named:
        if to not in number_of or number_of[to] == node:
            found = f"an arm leads to node {to[0]},{to[1]}, which " + (
                "is its own node" if to in number_of else "does not exist"
            )
            raise SourceError(f"network file {path}", f"line {at}: {found}", "correct the line")
        arms.append((node, number_of[to], np.array(vectors[:3]), np.array(vectors[3:]), at))
    return np.array(positions, float).reshape(-1, 3), np.array(constraints, int), arms, lines


def _paired(path: Path, arms: list[Arm]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every arm once, from its lower node; both ends have to agree."""
    back = defaultdict(list)
    for arm in arms:
        if arm[0] > arm[1]:
            back[arm[1], arm[0]].append(arm)
    kept = []
    for arm in arms:
        if arm[0] > arm[1]:
            continue
        others = back[arm[0], arm[1]]
        match = [k for k, other in enumerate(others) if np.linalg.norm(other[2] + arm[2]) <= SAME]
        if not match:
            found = f"line {arm[4]}: the other end lists " + (
                f"the Burgers vector {others[0][2].tolist()} (line {others[0][4]}), not minus {arm[2].tolist()}"
                if others
                else "no such arm"
            )
            raise SourceError(f"network file {path}", found, "list each arm at both ends with opposite Burgers vectors")
        others.pop(match[0])
        if np.linalg.norm(arm[2]) <= SAME:
            raise SourceError(f"network file {path}", f"line {arm[4]}: a Burgers vector is zero", "leave the arm out")
        kept.append(arm)
    left = [arm for some in back.values() for arm in some]
    if left:
        found = f"line {min(arm[4] for arm in left)}: the other end lists no such arm"
        raise SourceError(f"network file {path}", found, "list each arm at both ends with opposite Burgers vectors")
    vectors = np.array([arm[2:4] for arm in kept]).reshape(-1, 2, 3)
    return np.array([arm[:2] for arm in kept], np.int64).reshape(-1, 2), vectors[:, 0], vectors[:, 1]


def _on_lattice(path: Path, burgers: np.ndarray, kind: str, segments: np.ndarray, lines: list[int]) -> np.ndarray:
    """Burgers vectors rounded to lattice vectors, in units of the shortest one."""
    half = CUBIC[kind] / 2
    indices = np.rint(burgers / half)
    off = np.linalg.norm(burgers - indices * half, axis=1) > SAME * np.maximum(1, np.linalg.norm(burgers, axis=1))
    parity = np.mod(indices, 2)
    wrong = off | (parity.sum(1) % 2 > 0 if kind == "fcc" else np.ptp(parity, axis=1) > 0)
    if wrong.any():
        first = int(np.argmax(wrong))
        found = f"the node of line {lines[segments[first, 0]]} has the Burgers vector {burgers[first].tolist()}, "
        found += f"which is not a lattice vector of {kind} in units of the shortest one"
        raise SourceError(f"network file {path}", found, "give the lattice of the simulation, or none, as kind")
    return np.asarray(indices * half)


def _check_balance(
    path: Path,
    count: int,
    segments: np.ndarray,
    burgers: np.ndarray,
    constraints: np.ndarray,
    lines: list[int],
) -> None:
    """Refuse free nodes where a line ends. Lines may end at pinned nodes and at surfaces."""
    balance = np.zeros((count, 3))
    np.add.at(balance, segments[:, 0], burgers)
    np.subtract.at(balance, segments[:, 1], burgers)
    wrong = (np.linalg.norm(balance, axis=1) > 5 * SAME) & (constraints == 0)
    if wrong.any():
        node = int(np.argmax(wrong))
        found = f"line {lines[node]}: the Burgers vectors that leave the node sum to {balance[node].tolist()}"
        raise SourceError(f"network file {path}", found, "complete the arms of the node, or pin it (constraint 7)")
