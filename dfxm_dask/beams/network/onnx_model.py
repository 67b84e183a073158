"""Conversion of a network to an ONNX model, written field by field into memory.

Nothing is pickled, and no file is written. The package ``onnx`` (23 MB, and protobuf) would save the 30 lines that
write fields; torch's exporter requires ``onnxscript`` and sympy as well (90 MB).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.beams.network.networks import VARIANCE_FLOOR
from dfxm_dask.errors import InputError

if TYPE_CHECKING:
    import torch

OPSET, IR_VERSION = 17, 8
"""Versions of the format that all versions of onnxruntime since 1.13 read."""

FLOAT = 1
"""Number of single precision in the format."""


def onnx_model(net: torch.nn.Module) -> bytes:
    """A network as an ONNX model, from ``patches`` (n, channel, y, x) to ``logits`` (n, 2), float32.

    Parameters
    ----------
    net : torch.nn.Module
        :func:`~dfxm_dask.beams.network.networks.compact`, or a sequence of convolutions, ReLUs, pools and dense layers
        such as :func:`~dfxm_dask.beams.network.networks.published`.

    Returns
    -------
    bytes
        Identical for identical weights.

    Raises
    ------
    InputError
        A network with other layers.

    Notes
    -----
    A convolution from one channel to one and the following 1×1 convolution are merged, which onnxruntime runs faster.

    References
    ----------
    ONNX, ``onnx/onnx.proto``: numbers of the fields. https://github.com/onnx/onnx, Apache-2.0.

    Examples
    --------
    >>> from dfxm_dask.beams.network.networks import compact
    >>> len(onnx_model(compact())) > 4 * 7938
    True
    """
    if not expressible(net):
        raise InputError("engine onnxruntime", "does not support all layers of this network", "use engine torch")
    import torch

    nodes: list[bytes] = []
    tensors: list[bytes] = []

    def tensor(value: torch.Tensor) -> str:
        name = f"w{len(tensors)}"
        content = np.ascontiguousarray(value.detach().cpu().numpy(), "<f4")
        dims = b"".join(_field(1, n) for n in content.shape)
        tensors.append(_field(5, dims + _field(2, FLOAT) + _field(8, name) + _field(9, content.tobytes())))
        return name

    def node(kind: str, *given: str, out: str = "", **attributes: int | list[int]) -> str:
        out = out or f"x{len(nodes)}"
        links = b"".join(_field(1, name) for name in given) + _field(2, out)
        described = b"".join(_field(5, _attribute(name, value)) for name, value in attributes.items())
        nodes.append(_field(1, links + _field(4, kind) + described))
        return out

    def layer(part: Any, seen: str, out: str = "") -> str:
        match type(part).__name__:
            case "Conv2d":
                given = [tensor(part.weight), *([] if part.bias is None else [tensor(part.bias)])]
                return node(
                    "Conv",
                    seen,
                    *given,
                    kernel_shape=list(part.kernel_size),
                    strides=list(part.stride),
                    pads=2 * list(part.padding),
                    group=part.groups,
                )
            case "Linear":
                return node("Gemm", seen, tensor(part.weight), tensor(part.bias), out=out, transB=1)
            case "MaxPool2d":
                return node("MaxPool", seen, kernel_shape=2 * [part.kernel_size], strides=2 * [part.stride])
            case "Flatten":
                return node("Flatten", seen, axis=1)
            case "ReLU":
                return node("Relu", seen)
        return seen  # dropout

    whole: Any = net
    parts = _joined(list(whole.features if is_compact(net) else whole))
    output = "patches"
    for part in parts if is_compact(net) else parts[:-1]:
        output = layer(part, output)
    if is_compact(net):
        mean = node("ReduceMean", output, axes=[2, 3], keepdims=0)
        square = node("ReduceMean", node("Mul", output, output), axes=[2, 3], keepdims=0)
        variance = node("Relu", node("Sub", square, node("Mul", mean, mean)))
        spread = node("Sqrt", node("Add", variance, tensor(torch.tensor([VARIANCE_FLOOR]))))
        output = node("Concat", mean, spread, axis=1)
    layer(whole.score if is_compact(net) else parts[-1], output, out="logits")
    graph = b"".join(nodes) + _field(2, "network") + b"".join(tensors)
    graph += _field(11, _value("patches", "n", "channel", "y", "x")) + _field(12, _value("logits", "n", "class"))
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(2, OPSET))


def _field(number: int, content: int | str | bytes) -> bytes:
    """A field of a protocol buffer: a non-negative integer, or bytes with their length."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    content = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Variable-length encoding of a non-negative integer."""
    encoded = b""
    while value > 127:
        encoded += struct.pack("B", value & 127 | 128)
        value >>= 7
    return encoded + struct.pack("B", value)


def _attribute(name: str, value: int | list[int]) -> bytes:
    """An attribute of a node: an integer or a list of integers."""
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)
    return _field(1, name) + b"".join(_field(8, v) for v in value) + _field(20, 7)


def _value(name: str, *dims: str) -> bytes:
    """Name, type and dims of an input or output."""
    shape = b"".join(_field(1, _field(2, dim)) for dim in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, shape)))


def _joined(parts: list[Any]) -> list[Any]:
    """Merge the first two layers into one convolution if the first one maps one channel to one."""
    import torch

    if len(parts) < 2 or not all(isinstance(part, torch.nn.Conv2d) for part in parts[:2]):
        return parts
    first, second = parts[:2]
    if first.out_channels != 1 or first.in_channels != 1 or first.bias is not None or second.kernel_size != (1, 1):
        return parts
    one = torch.nn.Conv2d(1, second.out_channels, first.kernel_size, first.stride, first.padding)
    with torch.no_grad():
        one.weight.copy_(second.weight * first.weight)
        one.bias.copy_(second.bias)  # type: ignore[union-attr]
    return [one, *parts[2:]]


def is_compact(net: torch.nn.Module) -> bool:
    """Whether a network is of the architecture compact."""
    return type(net).__name__ == "Compact"


def expressible(net: Any) -> bool:
    """Whether all layers occur in the networks compact and published."""
    from torch import nn

    parts = list(net.features) if is_compact(net) else list(net) if type(net) is nn.Sequential else []
    return bool(parts) and all(map(_plain, parts)) and (is_compact(net) or type(parts[-1]) is nn.Linear)


def _plain(part: Any) -> bool:
    """Whether a layer has no options beyond those of the networks compact and published."""
    from torch import nn

    if type(part) is nn.Conv2d:
        return part.dilation == (1, 1) and part.padding_mode == "zeros" and isinstance(part.padding, tuple)
    if type(part) is nn.MaxPool2d:
        settings = part.padding, part.dilation, part.ceil_mode, type(part.kernel_size), type(part.stride)
        return settings == (0, 1, False, int, int)
    if type(part) is nn.Flatten:
        return bool(part.start_dim == 1 and part.end_dim == -1)
    return type(part) in (nn.Linear, nn.ReLU, nn.Dropout, nn.Dropout2d)
