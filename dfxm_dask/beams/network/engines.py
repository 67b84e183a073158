"""Engines that run a network on patches: torch on a processor or a GPU, or onnxruntime if installed and faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dfxm_dask.beams.network.networks import STRONG, WEAK, one_thread
from dfxm_dask.beams.network.onnx_model import expressible, is_compact, onnx_model
from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.errors import InputError
from dfxm_dask.schema import nearest

if TYPE_CHECKING:
    import torch

Engine = Literal["auto", "torch", "onnxruntime"]
Answer = Callable[[np.ndarray], np.ndarray]

ENGINES = ("auto", "torch", "onnxruntime")

BATCH = {"torch": (128, 16), "onnxruntime": (32, 4)}
"""Patches per batch, for the compact network and for others, whose features are larger (our choice, by measurement)."""

DEVICE_BATCH = 2048
"""Patches per batch on a GPU, more than a frame of 2160 × 2560 pixels contains (our choice)."""


def chosen(net: torch.nn.Module, engine: str = "auto", device: str = "auto") -> tuple[str, str]:
    """The engine that runs a network, and its device.

    Parameters
    ----------
    net : torch.nn.Module
    engine : "auto", "torch" or "onnxruntime"
        "auto" uses onnxruntime on a processor for the architectures compact and published, if it is installed.
    device : str
        "auto" uses a GPU that torch detects, unless onnxruntime is requested. "cpu" or "cuda".

    Returns
    -------
    (str, str)
        For example ("onnxruntime", "cpu"). Always the same for one network on one machine.

    Raises
    ------
    InputError
        An unknown engine, one that is not installed or does not support the layers of the network or the device, or a
        GPU that does not exist.

    Notes
    -----
    Patches of 64 px per second on one core, relative to the published network run patch by patch by torch (160 to 270
    per second on a Xeon of 2.5 GHz with AVX-512), as measured by ``scripts/benchmark.py networks`` with torch 2.13 and
    onnxruntime 1.31; medians of processor time on a machine with other load:

    ===========================  =====  ===========
    network                      torch  onnxruntime
    ===========================  =====  ===========
    compact, alone                  86          215
    compact, from raw counts        75          127
    published, alone, batched      3.2          7.1
    ===========================  =====  ===========

    So onnxruntime is faster for both. Other architectures were not measured and use torch. Nothing was measured on a
    GPU.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine {engine!r}", f"is unknown{nearest(engine, ENGINES)}", f"use one of {', '.join(ENGINES)}"
        )
    if engine == "onnxruntime" and device not in ("auto", "cpu"):
        raise InputError(f"engine onnxruntime on {device}", "runs on a processor only", "use torch, or device cpu")
    if engine == "onnxruntime" and not _installed():
        raise InputError(
            "engine onnxruntime", "is not installed", "install dfxm_dask[fast], or set engine to auto or torch"
        )
    if engine == "onnxruntime":
        onnx_model(net)  # refuses layers that it cannot express
        return "onnxruntime", "cpu"
    where = _device(device)
    faster = engine == "auto" and where == "cpu" and _installed() and expressible(net)
    return ("onnxruntime" if faster else "torch"), where


def engine_of(net: torch.nn.Module, engine: str = "auto", device: str = "auto") -> str:
    """Engine, version and device of a call of :func:`dfxm_dask.beams.network.inference.predict`, for provenance.

    Parameters
    ----------
    net, engine, device
        See :func:`chosen`.

    Returns
    -------
    str
        For example "torch 2.13.0 on cpu". Results with equal texts are identical to the last bit on one kind of
        processor.

    Raises
    ------
    InputError
        See :func:`chosen`.

    Examples
    --------
    >>> from dfxm_dask.beams.network.networks import compact
    >>> engine_of(compact(), "torch", "cpu").split()[0]
    'torch'
    """
    name, where = chosen(net, engine, device)
    return f"{name} {version(name)} on {where}"


def batch_of(net: torch.nn.Module, engine: str) -> int:
    """Number of patches per batch of an engine."""
    return BATCH[engine][0 if is_compact(net) else 1]


def answers(net: torch.nn.Module, engine: str) -> Answer:
    """Log-odds of weak beam of a batch on a processor, as a function of patches (n, channel, y, x), float32.

    Parameters
    ----------
    net : torch.nn.Module
        Not changed. The converted model for onnxruntime is cached per process and weights.
    engine : "torch" or "onnxruntime"

    Returns
    -------
    callable
        Function that returns an array (n,), float32.
    """
    if engine == "onnxruntime":
        session = _session(onnx_model(net))
        return lambda patches: _odds(session.run(None, {"patches": patches})[0])
    import torch

    ready = for_inference(net)

    def answer(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), one_thread():
            given = torch.from_numpy(patches).contiguous(memory_format=torch.channels_last)
            return _odds(ready(given).numpy())

    return answer


def for_inference(net: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network for inference on the processor.

    Channels are the last axis in memory and ReLUs work in place: allocating new megabytes for each of them, page by
    page, would cost as much as the convolutions.
    """
    import torch

    ready = copy.deepcopy(net).eval()
    for part in ready.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = True
    return ready.to("cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]


def on_device(
    net: torch.nn.Module,
    device: str,
    size: int,
    lit: np.ndarray | None = None,
    precision: torch.dtype | None = None,
) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Log-odds of weak beam of all patches of a frame on a GPU, as a function of the frame and of a table.

    Parameters
    ----------
    net : torch.nn.Module
        Not changed.
    device : str
        Name of the device for torch.
    size : int, pixel
        Edge of a patch.
    lit : array (y, x), bool, optional
        Pixels over which raw frames are standardised; by default all.
    precision : torch.dtype, optional
        Precision of the convolutions; half by default. Means, standard deviations and the dense layer of the compact
        network keep single precision, since a standard deviation is a small difference of squares.

    Returns
    -------
    callable
        Function of a frame (y, x), uint8 or uint16, and a table with the logarithm of every possible count; or of a
        standardised frame, float32, and None. It returns an array (patch_y × patch_x,), float32.

    Notes
    -----
    Whole frames are transferred from page-locked memory; patches are cut and tables looked up on the device. Batches
    never cross a frame.
    """
    import torch

    where, half = torch.device(device), precision or torch.float16
    ready: Any = copy.deepcopy(net).eval().to(where)
    body = ready.features if is_compact(net) else ready
    body.to(half)
    body.register_forward_pre_hook(lambda _, given: (given[0].to(half),))
    body.register_forward_hook(lambda _, given, features: features.float())

    def sent(frame: np.ndarray) -> torch.Tensor:
        dtype = torch.from_numpy(np.empty(0, frame.dtype)).dtype
        page_locked = torch.empty(frame.shape, dtype=dtype, pin_memory=where.type == "cuda")
        page_locked.numpy()[...] = frame
        return page_locked.to(where)

    def looked_up(frame: np.ndarray, table: np.ndarray) -> torch.Tensor:
        # torch cannot index by unsigned 16 bits, so the frame is transferred as signed numbers.
        levels = sent(frame.view(np.int16) if frame.dtype == np.uint16 else frame).int() & (table.size - 1)
        logs = torch.from_numpy(table.astype(np.float64)).to(where)
        pixels = torch.bincount((levels if mask is None else levels[mask]).flatten(), minlength=table.size).double()
        mean = float((pixels * logs).sum() / pixels.sum())
        spread = float(torch.sqrt((pixels * (logs - mean) ** 2).sum() / pixels.sum()))
        if not spread > 1e-6 * max(1.0, abs(mean)):  # as dfxm_dask.beams.patches.standardise
            return torch.zeros(frame.shape, device=where)
        return (logs.float().sub(mean) * (1 / spread))[levels]

    mask = None if lit is None else sent(np.asarray(lit, bool))

    def answer(frame: np.ndarray, table: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            seen = sent(frame) if table is None else looked_up(frame, table)
            rows, columns = (torch.from_numpy(_lines(n, size)).to(where) for n in frame.shape)
            tiles = seen[rows][:, columns].reshape(len(rows) // size, size, len(columns) // size, size)
            patches = tiles.transpose(1, 2).reshape(-1, 1, size, size)
            logits = [ready(part.contiguous(memory_format=torch.channels_last)) for part in patches.split(DEVICE_BATCH)]
            return _odds(torch.cat(logits).cpu().numpy())

    return answer


def _lines(length: int, size: int) -> np.ndarray:
    """Rows, or columns, of all patches in sequence; a frame smaller than a patch is extended by reflection."""
    (first,) = patch_starts((length, 1), size)[:1]
    reflected = np.pad(np.arange(length), (0, max(0, size - length)), mode="symmetric")
    return reflected[first[:, None] + np.arange(size)].ravel()


@lru_cache(maxsize=4)
def _session(model: bytes) -> Any:
    """A session of onnxruntime on one thread; one per process and weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _odds(logits: np.ndarray) -> np.ndarray:
    """Log-odds of weak beam from the logits of both classes."""
    return np.asarray(logits[:, WEAK] - logits[:, STRONG])


@lru_cache(maxsize=1)
def _installed() -> bool:
    """Whether onnxruntime is installed."""
    return find_spec("onnxruntime") is not None


def _device(device: str) -> str:
    """The device for torch, checked."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device}", "torch detects no GPU here", "use cpu or auto")
    return device
