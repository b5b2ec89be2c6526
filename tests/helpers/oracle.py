"""The definition, in float64 (or complex128, int64) NumPy by loops; it shares no code with jdeconv.

Tap t joins input position p to output position p*stride + t*dilation - low: the transposed convolution adds
x[p] w[t] to y there, and the other two solutions of the same sum follow from it.

Layouts: x (n, *in, C_in), w (*k, C_out / groups, C_in), y (n, *out, C_out), channels in contiguous groups.
"""

import itertools
import math

import numpy as np


def window_span(kernel, dilation):
    return (kernel - 1) * dilation + 1


def strided_size(out, kernel, stride, dilation, padding):
    """The size that the strided convolution, of which this is the transpose, makes of `out`."""
    if padding == "SAME":
        return -(-out // stride)
    low, high = (0, 0) if padding == "VALID" else padding
    free = out + low + high - window_span(kernel, dilation)
    return math.trunc((free + stride) / stride)  # TensorFlow's C++ division, so 0 also where free is below -stride


def low_pad(in_size, out, kernel, stride, dilation, padding):
    if padding == "VALID":
        return 0
    if padding == "SAME":
        return max((in_size - 1) * stride + window_span(kernel, dilation) - out, 0) // 2
    return padding[0]


def joins(case):
    """All (p, t, q): input position, tap, output position."""
    lows = [low_pad(*sizes) for sizes in case.per_dimension()]
    for p in itertools.product(*map(range, case.in_sizes)):
        for t in itertools.product(*map(range, case.kernel)):
            steps = zip(p, t, case.strides, case.dilations, lows, strict=True)
            q = tuple(a * s + b * d - low for a, b, s, d, low in steps)
            if all(0 <= position < size for position, size in zip(q, case.out_sizes, strict=True)):
                yield p, t, q


def _wide(array):
    kind = np.asarray(array).dtype.kind
    return np.asarray(array).astype({"c": np.complex128, "i": np.int64}.get(kind, np.float64))


def _grouped(case, x, w, y):
    """Views with a group axis: x (n, *in, g, i), w (*k, o, g, i), y (n, *out, g, o)."""
    g, i, o = case.groups, case.group_inputs, case.group_outputs
    return (
        x.reshape(case.batch, *case.in_sizes, g, i),
        w.reshape(*case.kernel, o, g, i),
        y.reshape(case.batch, *case.out_sizes, g, o),
    )


def transpose_conv(case, x, w):
    x, w = _wide(x), _wide(w)
    y = np.zeros((case.batch, *case.out_sizes, case.groups * case.group_outputs), np.result_type(x, w))
    xs, ws, ys = _grouped(case, x, w, y)
    for p, t, q in joins(case):
        ys[(slice(None), *q)] += np.einsum("ngi,ogi->ngo", xs[(slice(None), *p)], ws[t])
    return y


def input_grad(case, w, y):
    w, y = _wide(w), _wide(y)
    x = np.zeros((case.batch, *case.in_sizes, case.groups * case.group_inputs), np.result_type(w, y))
    xs, ws, ys = _grouped(case, x, w, y)
    for p, t, q in joins(case):
        xs[(slice(None), *p)] += np.einsum("ogi,ngo->ngi", ws[t], ys[(slice(None), *q)])
    return x


def kernel_grad(case, x, y):
    x, y = _wide(x), _wide(y)
    w = np.zeros((*case.kernel, case.group_outputs, case.groups * case.group_inputs), np.result_type(x, y))
    xs, ws, ys = _grouped(case, x, w, y)
    for p, t, q in joins(case):
        ws[t] += np.einsum("ngi,ngo->ogi", xs[(slice(None), *p)], ys[(slice(None), *q)])
    return w
