"""Transformation of counts, and products of the transformed curves: the compiled loops of every fit and projection.

They vectorise, and the result of each pixel is bitwise independent of its position in a strip: fused multiply-adds are
explicit, and only sums of integers, which are exact in any order, are reordered.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

SPLIT = 0x3F3504F3  # bits of √½ as float32, less one octave: mantissas come out in [√½, √2)
MANTISSA_BITS = 23

# ln(1 + t) = t (A + B t + ...) for 1 + t in [√½, √2), interpolated at Chebyshev points; error 4e-7.
SERIES = (1.00000096, -0.50001145, 0.333146738, -0.249082892, 0.204917597, -0.186807514, 0.119310544)
LN2 = 0.6931471805599453
LOG_STEPS = 2.0**13
"""Steps per unit of the transformation "log": see :data:`dfxm_dask.components.curves.STEPS`."""

A, B, C, D, E, F, G = (np.float32(LOG_STEPS * factor) for factor in SERIES)
OCTAVE = np.float32(LOG_STEPS * LN2)
SHORT = 16  # pixels: if runs of neighbours are shorter on average, pixels are copied one by one
BLOCK = 4  # frames whose products are summed together, in registers


@intrinsic
def _power(typing_context, value):
    """The e of value = m 2**e with m in [√½, √2), as float32."""

    def make(context, builder, signature, arguments):
        whole = context.get_value_type(types.int32)
        bits = builder.sub(builder.bitcast(arguments[0], whole), whole(SPLIT))
        return builder.sitofp(builder.ashr(bits, whole(MANTISSA_BITS)), context.get_value_type(types.float32))

    return types.float32(types.float32), make


@intrinsic
def _mantissa(typing_context, value):
    """The m of value = m 2**e with m in [√½, √2)."""

    def make(context, builder, signature, arguments):
        whole = context.get_value_type(types.int32)
        bits = builder.bitcast(arguments[0], whole)
        power = builder.ashr(builder.sub(bits, whole(SPLIT)), whole(MANTISSA_BITS))
        mantissa = builder.sub(bits, builder.shl(power, whole(MANTISSA_BITS)))
        return builder.bitcast(mantissa, context.get_value_type(types.float32))

    return types.float32(types.float32), make


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a b + c in float32 with one rounding."""

    def make(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), make


@njit(nogil=True, cache=True)
def take_curves(line, starts, positions, level, curves):
    """Counts above background at buffer positions of a layer: (frame, pixel); NaN for values that are not finite."""
    size, runs = positions.size, 1
    for n in range(1, size):
        runs += positions[n] != positions[n - 1] + 1
    if runs * SHORT > size:
        for frame in range(starts.size):
            start = np.uintp(starts[frame])
            for n in range(size):
                value = np.float32(line[start + np.uintp(positions[n])]) - level[n]
                curves[frame, n] = value + (value - value)
        return
    first = 0
    while first < size:
        last = first + 1
        while last < size and positions[last] == positions[last - 1] + 1:
            last += 1
        for frame in range(starts.size):
            start = np.uintp(starts[frame] + positions[first])
            for n in range(last - first):
                value = np.float32(line[start + np.uintp(n)]) - level[np.uintp(first) + np.uintp(n)]
                curves[frame, np.uintp(first) + np.uintp(n)] = value + (value - value)
        first = last


@njit(nogil=True, cache=True)
def scale_counts(values, kind, offset, step):
    """Transform counts above background into integer numbers of steps, in place: (n,) float32; NaN stays.

    The logarithm of m 2**e is that of m by a polynomial, plus e ln 2.
    """
    per_step, zero, one, two = np.float32(1 / step), np.float32(0), np.float32(1), np.float32(2)
    if kind == 0:
        for n in range(values.size):
            v = values[n]
            v = (zero if v < zero else v) + offset
            t = _mantissa(v) - one
            square = t * t
            low = multiply_add(square, multiply_add(D, t, C), multiply_add(B, t, A))
            high = multiply_add(square, G, multiply_add(F, t, E))
            part = multiply_add(square * square, high, low)
            values[n] = np.rint(multiply_add(t, part, _power(v) * OCTAVE)) + (v - v)
    elif kind == 1:
        for n in range(values.size):
            v = values[n] + offset
            values[n] = np.rint(two * np.sqrt(zero if v < zero else v) * per_step)
    else:
        for n in range(values.size):
            values[n] = np.rint(values[n] * per_step)


@njit(nogil=True, cache=True)
def places_of(pixels, columns, row_step):
    """Buffer positions of pixels in ascending order: see :func:`dfxm_dask.memory.frame_lines`."""
    positions = np.empty(pixels.size, np.int64)
    row = pixels[0] // columns if pixels.size else 0
    for n in range(pixels.size):
        while pixels[n] >= (row + 1) * columns:
            row += 1
        positions[n] = pixels[n] + row * (row_step - columns)
    return positions


@njit(nogil=True, cache=True)
def finite_columns(curves, pixels, steps):
    """Move finite curves and their pixels to the front; return their number and largest magnitude.

    Parameters: ``curves`` (frame, pixel) float32; ``pixels`` (pixel,) int64, changed; ``steps`` (frames or more,
    pixel or more) float64, output.
    """
    size = pixels.size
    wrong, most = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for frame in range(curves.shape[0]):
        for n in range(size):
            steps[frame, n] = curves[frame, n]
        for n in range(size):
            wrong[n] += curves[frame, n] - curves[frame, n]
        for n in range(size):
            value = abs(curves[frame, n])
            most[n] = value if value > most[n] else most[n]
    count, largest = 0, np.float32(0)
    for n in range(size):
        if wrong[n] == 0:
            if count < n:
                pixels[count] = pixels[n]
                for frame in range(curves.shape[0]):
                    steps[frame, count] = curves[frame, n]
            largest = max(largest, most[n])
            count += 1
    return count, largest


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def add_products(steps, size, gram, total):
    """Add products of frames, summed over pixels, to the lower half of ``gram``, and sums of frames to ``total``.

    Parameters
    ----------
    steps : array (frame, pixel), float64
        Integers below 2**21, for at most 2048 pixels: sums stay below 2**53, where they are exact in any order. The
        number of frames is a multiple of 4.
    size : int
        Number of pixels to include.
    gram : array (frame, frame), int64
    total : array (frame,), int64
    """
    for i in range(0, steps.shape[0], BLOCK):
        for j in range(0, i + BLOCK, BLOCK):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = 0.0
            for n in range(size):
                a, b, c, d = steps[i, n], steps[i + 1, n], steps[i + 2, n], steps[i + 3, n]
                p, q, r, s = steps[j, n], steps[j + 1, n], steps[j + 2, n], steps[j + 3, n]
                a0, a1, a2, a3 = a0 + a * p, a1 + a * q, a2 + a * r, a3 + a * s
                b0, b1, b2, b3 = b0 + b * p, b1 + b * q, b2 + b * r, b3 + b * s
                c0, c1, c2, c3 = c0 + c * p, c1 + c * q, c2 + c * r, c3 + c * s
                d0, d1, d2, d3 = d0 + d * p, d1 + d * q, d2 + d * r, d3 + d * s
            blocks = ((a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3), (d0, d1, d2, d3))
            for k in range(BLOCK):
                for l in range(BLOCK):  # noqa: E741
                    gram[i + k, j + l] += np.int64(blocks[k][l])
        for k in range(i, i + BLOCK):
            added = 0.0
            for n in range(size):
                added += steps[k, n]
            total[k] += np.int64(added)
