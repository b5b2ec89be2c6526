"""Calls of `jax.lax.conv_transpose`, and random ones of every form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax


@dataclasses.dataclass(frozen=True)
class Call:
    """Arguments of lax's function; `lhs` and `rhs` are shapes."""

    lhs: tuple
    rhs: tuple
    strides: tuple
    padding: object
    rhs_dilation: tuple | None = None
    dimension_numbers: object = None
    transpose_kernel: bool = False
    use_consistent_padding: bool = False

    @property
    def arguments(self):
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if name not in ("lhs", "rhs")}

    def arrays(self, dtype=np.float64):
        rng = np.random.default_rng(0)
        return [rng.standard_normal(shape).astype(dtype) for shape in (self.lhs, self.rhs)]

    @property
    def convolution(self):
        """The parameters of the convolution that lax makes of the call."""
        jaxpr = jax.make_jaxpr(lambda x, w: lax.conv_transpose(x, w, **self.arguments))(*self.arrays(np.float32))
        (found,) = (eqn.params for eqn in jaxpr.eqns if eqn.primitive is lax.conv_general_dilated_p)
        return found

    @property
    def legal(self):
        """Whether lax takes the pads; it does not where they cut off more than there is."""
        try:
            return bool(self.convolution)
        except ValueError as refused:
            if "Negative padding" not in str(refused):
                raise
            return False

    @property
    def overreaches(self):
        """Whether lax's own input gradient has negative pads, where jaxlib 0.10 reads out of bounds."""
        found = self.convolution
        kernel = [self.rhs[axis] for axis in found["dimension_numbers"].rhs_spec[2:]]
        sizes = zip(kernel, found["rhs_dilation"], found["padding"], strict=True)
        return any(max(pads) > (k - 1) * d for k, d, pads in sizes)

    def stuffed(self, x, w):
        """The same as a convolution without padding or input dilation of its own."""
        found = self.convolution
        numbers = found["dimension_numbers"]
        pads = [(0, 0, 0)] * x.ndim
        sizes = zip(numbers.lhs_spec[2:], found["padding"], found["lhs_dilation"], strict=True)
        for axis, (low, high), dilation in sizes:
            pads[axis] = (low, high, dilation - 1)
        if self.transpose_kernel:
            w = jnp.flip(w, numbers.rhs_spec[2:]).swapaxes(*numbers.rhs_spec[:2])
        ones = (1,) * (x.ndim - 2)
        return lax.conv_general_dilated(lax.pad(x, 0.0, pads), w, ones, "VALID", None, found["rhs_dilation"], numbers)


@st.composite
def calls(draw):
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    most = {1: 6, 2: 4, 3: 3}[rank]

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    sizes, kernel, strides, dilations = each(1, most), each(1, most), each(1, 4), each(1, 2)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    consistent, kind = draw(st.booleans()), draw(st.sampled_from(["SAME", "VALID", "pairs", "pairs", "pairs"]))
    padding = kind
    if kind == "pairs":
        padding = []
        for size, s, e in zip(sizes, strides, extents, strict=True):
            dilated = (size - 1) * s + 1
            low = draw(st.integers(-dilated // 2, e + 4))
            padding.append((low, draw(st.integers(-(dilated // 2) - min(low, 0) // 2, e + 4))))
        if consistent:
            padding = [(e - 1 - low, e - 1 - high) for (low, high), e in zip(padding, extents, strict=True)]
    c_in, c_out, transpose_kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.booleans())
    lhs = draw(st.permutations([("N", 2), ("C", c_in), *zip("XYZ", sizes, strict=False)]))
    i, o = (c_out, c_in) if transpose_kernel else (c_in, c_out)
    rhs = draw(st.permutations([("I", i), ("O", o), *zip("XYZ", kernel, strict=False)]))
    # Strides and the rest belong to the kernel's spatial letters, in their order.
    order = ["XYZ".index(letter) for letter, _ in rhs if letter in "XYZ"]
    strides, dilations = ([values[i] for i in order] for values in (strides, dilations))
    if kind == "pairs":
        padding = [padding[i] for i in order]
    specs = ["".join(letter for letter, _ in dims) for dims in (lhs, rhs)]
    out = "".join(draw(st.permutations(specs[0])))
    return Call(
        tuple(size for _, size in lhs),
        tuple(size for _, size in rhs),
        tuple(strides),
        padding,
        draw(st.sampled_from([None, tuple(dilations)])) if set(dilations) == {1} else tuple(dilations),
        (*specs, out),
        transpose_kernel,
        consistent,
    )
