"""Random legal transposed convolutions, for hypothesis: what is drawn, what it runs, how far it may be off."""

import contextlib
import dataclasses

import jax
import numpy as np
import oracle
from hypothesis import strategies as st

import jdeconv
from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._plan.problem import Problem

FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}
FUNCTIONS = {1: jdeconv.conv1d_transpose, 2: jdeconv.conv2d_transpose, 3: jdeconv.conv3d_transpose}
FLOATS = ("float16", "bfloat16", "float32", "float64")
RUN_HERE = tuple(method for method in METHODS if method != "pallas")  # its kernels: tests/kernels
DTYPES = (*FLOATS, "complex64", "complex128", "int32")


@dataclasses.dataclass(frozen=True)
class Case:
    batch: int
    in_sizes: tuple
    kernel: tuple
    strides: tuple
    dilations: tuple
    padding: str | tuple
    out_sizes: tuple
    groups: int = 1
    group_inputs: int = 1
    group_outputs: int = 1
    channels_first: bool = False
    dtype: str = "float32"
    seed: int = 0

    @property
    def rank(self):
        return len(self.in_sizes)

    @property
    def data_format(self):
        return FORMATS[self.rank][self.channels_first]

    @property
    def geometry(self):
        return build(self.in_sizes, self.kernel, self.strides, self.dilations, self.padding, self.out_sizes)

    def per_dimension(self):
        pads = [self.padding] * self.rank if isinstance(self.padding, str) else self.padding
        return list(zip(self.in_sizes, self.out_sizes, self.kernel, self.strides, self.dilations, pads, strict=True))

    def arrays(self):
        """(x, w, y), channels last, drawn from the seed in the case's dtype."""
        rng = np.random.default_rng(self.seed)
        c_in, c_out = self.groups * self.group_inputs, self.groups * self.group_outputs
        shapes = (
            (self.batch, *self.in_sizes, c_in),
            (*self.kernel, self.group_outputs, c_in),
            (self.batch, *self.out_sizes, c_out),
        )
        return [self._draw(rng, shape) for shape in shapes]

    def _draw(self, rng, shape):
        if self.dtype == "int32":
            return rng.integers(-9, 10, shape).astype(np.int32)
        values = rng.standard_normal(shape)
        if self.dtype.startswith("complex"):
            values = values + 1j * rng.standard_normal(shape)
        return values.astype(jax.numpy.dtype(self.dtype))

    def to_format(self, array):
        return np.moveaxis(array, -1, 1) if self.channels_first else array

    def from_format(self, array):
        return np.moveaxis(np.asarray(array), 1, -1) if self.channels_first else np.asarray(array)

    @property
    def arguments(self):
        """The keyword arguments after the two operands."""
        shape = [self.batch, *self.out_sizes]
        shape.insert(1 if self.channels_first else self.rank + 1, self.groups * self.group_outputs)
        padding = self.padding
        if not isinstance(padding, str):
            padding = [[0, 0], *map(list, padding)]
            padding.insert(1 if self.channels_first else self.rank + 1, [0, 0])
        return {
            "output_shape": tuple(shape),
            "strides": list(self.strides),
            "padding": padding,
            "data_format": self.data_format,
            "dilations": list(self.dilations),
        }

    def x64(self):
        return jax.enable_x64(True) if self.dtype in ("float64", "complex128") else contextlib.nullcontext()

    def function(self, method="auto"):
        function, arguments = FUNCTIONS[self.rank], self.arguments
        return lambda x, w: function(x, w, **arguments, method=method)

    def run(self, method="auto", function=None, operands=None):
        """y and both gradients (y alone for integers), channels last, from one compiled program."""
        x, w, y = self.arrays() if operands is None else operands
        f = function or self.function(method)
        with self.x64():
            if self.dtype == "int32":
                return [self.from_format(jax.jit(f)(self.to_format(x), w))]

            def all_three(x, w, y):
                out, pull = jax.vjp(f, x, w)
                return (out, *pull(y))

            out, x_bar, w_bar = jax.jit(all_three)(self.to_format(x), w, self.to_format(y))
            assert (out.dtype, x_bar.dtype, w_bar.dtype) == (x.dtype,) * 3
            return [self.from_format(out), self.from_format(x_bar), np.asarray(w_bar)]

    def expected(self, magnitudes=False):
        """The oracle's y and gradients; for the error bound, from the operands' absolute values."""
        x, w, y = (np.abs(array) for array in self.arrays()) if magnitudes else self.arrays()
        three = oracle.transpose_conv(self, x, w), oracle.input_grad(self, w, y), oracle.kernel_grad(self, x, y)
        return three[:1] if self.dtype == "int32" else three

    @property
    def terms(self):
        """The most terms that an element of y, of the gradient of x and of the gradient of w is the sum of."""
        taps, n = int(np.prod(self.kernel)), self.batch * int(np.prod(self.in_sizes))
        return taps * self.group_inputs, taps * self.group_outputs, n

    def check(self, found):
        """Each result of `run` is within the rounding error of its own sum; see `check_one`."""
        expected = self.expected()
        bounds, counts = self.expected(magnitudes=True), self.terms[: len(expected)]
        for got, want, bound, count in zip(found, expected, bounds, counts, strict=True):
            self.check_one(got, want, bound, count + 1)

    def check_output(self, y):
        """The same for y alone."""
        self.check_one(y, self.expected()[0], self.expected(magnitudes=True)[0], self.terms[0] + 1)

    def check_one(self, got, want, bound, roundings, narrow_sums=False):
        """At most so many roundings of a sum whose terms' magnitudes add up to `bound`.

        16-bit floats are summed in float32 and the result is rounded, unless `narrow_sums`.
        """
        assert got.shape == want.shape, self
        info = None if self.dtype == "int32" else jax.numpy.finfo(self.dtype)
        eps = float(info.eps) if info else 0
        wide = got.astype(want.dtype) if want.dtype.kind != "c" else got
        # A complex product is four real ones and two sums.
        room = (4 if want.dtype.kind == "c" else 1) * roundings * eps * bound.real
        if info and info.bits == 16 and not narrow_sums:
            room = roundings * 2.0**-23 * bound + eps / 2 * np.abs(want) + float(info.smallest_subnormal)
        assert (np.abs(wide - want) <= room).all(), f"{self}\n{np.abs(wide - want).max()} > {room.max()}"


def refuses(method, case):
    """Why the method can't do one of the three results, or None."""
    channels = case.groups, case.group_inputs, case.group_outputs
    problems = (
        Problem(case.geometry, result, case.batch, *channels, case.dtype) for result in ("output", "input", "kernel")
    )
    reason = next((reason for problem in problems if (reason := METHODS[method].supports(problem))), None)
    return reason or ("no kernel for CPU" if method not in RUN_HERE and not case.geometry.empty else None)


def legal_sizes(in_size, kernel, stride, dilation, padding):
    """Every output size that the strided convolution maps to `in_size`, found by trying."""
    most = in_size * stride + oracle.window_span(kernel, dilation) + stride
    return [out for out in range(most) if oracle.strided_size(out, kernel, stride, dilation, padding) == in_size]


BIGGEST = {1: (9, 7), 2: (6, 7), 3: (3, 3)}  # input and kernel, for each rank


@st.composite
def cases(draw, dtypes=DTYPES, ranks=(1, 2, 3), explicit=True, empty=False, most_groups=3, dilated=True, sizes=BIGGEST):
    rank = draw(st.sampled_from(ranks))
    biggest = sizes[rank]
    kind = draw(st.sampled_from(["SAME", "VALID", "explicit"] if explicit else ["SAME", "VALID"]))
    dims = []
    for _ in range(rank):
        in_size = draw(st.integers(0 if empty else 1, biggest[0]))
        kernel, stride = draw(st.integers(1, biggest[1])), draw(st.integers(1, 4))
        dilation = draw(st.integers(1, 3 if dilated else 1))
        pads = kind
        outs = []
        if kind == "explicit":
            pads = (draw(st.integers(0, kernel + 2)), draw(st.integers(0, kernel + 2)))
            outs = legal_sizes(in_size, kernel, stride, dilation, pads)
            if not outs:
                pads = (0, 0)
        outs = outs or legal_sizes(in_size, kernel, stride, dilation, pads)
        out = draw(st.sampled_from([size for size in outs if size or empty] or [1]))
        if not [size for size in outs if size or empty]:  # only an empty output fits: pad nothing
            pads = (0, 0) if kind == "explicit" else pads
            out = legal_sizes(in_size, kernel, stride, dilation, pads)[0]
        dims.append((in_size, kernel, stride, dilation, pads, out))
    in_sizes, kernel, strides, dilations, pads, outs = zip(*dims, strict=True)
    return Case(
        batch=draw(st.integers(0 if empty else 1, 3)),
        in_sizes=in_sizes,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        padding=kind if kind != "explicit" else pads,
        out_sizes=outs,
        groups=draw(st.integers(1, most_groups)),
        group_inputs=draw(st.integers(0 if empty else 1, 3)),
        group_outputs=draw(st.integers(1, 3)),
        channels_first=draw(st.booleans()),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 99)),
    )
