"""Calls of `jax.lax.conv_general_dilated`, random ones of every form, and their definition in NumPy by loops.

The definition shares no code with jdeconv or JAX. Tap t joins input position p to output position q where
`q*window_stride + t*rhs_dilation - low == p*lhs_dilation`, in every dimension; the gradients follow from the same sum.
"""

import dataclasses
import itertools

import jax
import numpy as np
from hypothesis import strategies as st
from jax import lax


@dataclasses.dataclass(frozen=True)
class Call:
    """Arguments of lax's function; `lhs` and `rhs` are shapes."""

    lhs: tuple
    rhs: tuple
    window_strides: tuple
    padding: object
    lhs_dilation: tuple | None = None
    rhs_dilation: tuple | None = None
    dimension_numbers: object = None
    feature_group_count: int = 1
    batch_group_count: int = 1

    @property
    def arguments(self):
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if name not in ("lhs", "rhs")}

    def of(self, function, **options):
        """`function` of the two operands, with these arguments."""
        return lambda x, w: function(x, w, **self.arguments, **options)

    def arrays(self, dtype=np.float64, seed=0):
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(shape).astype(dtype) for shape in (self.lhs, self.rhs)]

    @property
    def legal(self):
        """Whether lax takes the pads; it does not where they cut off more than there is."""
        try:
            return bool(jax.eval_shape(self.of(lax.conv_general_dilated), *self.arrays(np.float32)).shape)
        except ValueError as refused:
            if "Negative padding" not in str(refused):
                raise
            return False

    @property
    def overreaches(self):
        """Whether lax's own input gradient has negative pads, where jaxlib 0.10 reads out of bounds."""
        sums = Sums(self)
        return any(max(pads) > extent - 1 for pads, extent in zip(sums.pads, sums.extents, strict=True))


class Sums:
    """y[n, q, o] = sum over t, c of x[n', p, c] w[t, c, o], where p, t and q are joined.

    With feature groups o sees the channels c of its group alone; with batch groups the examples n' of its group.
    """

    def __init__(self, call):
        self.call, rank = call, len(call.window_strides)
        self.x_axes, self.w_axes, self.y_axes = _axes(call.dimension_numbers, rank + 2)
        (self.n, self.c, *self.inputs), (self.o, self.i, *self.kernel) = (
            [shape[axis] for axis in axes] for shape, axes in ((call.lhs, self.x_axes), (call.rhs, self.w_axes))
        )
        ones = (1,) * rank
        self.steps = call.window_strides
        self.stuffing, self.spacing = call.lhs_dilation or ones, call.rhs_dilation or ones
        self.extents = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.spacing, strict=True)]
        self.pads = [*self._pads()]
        stuffed = [max((size - 1) * d + 1, 0) for size, d in zip(self.inputs, self.stuffing, strict=True)]
        room = [size + sum(pads) for size, pads in zip(stuffed, self.pads, strict=True)]
        self.outputs = [max((free - e) // s + 1, 0) for free, e, s in zip(room, self.extents, self.steps, strict=True)]

    def _pads(self):
        padding = self.call.padding
        for dim, (size, e, s) in enumerate(zip(self.inputs, self.extents, self.steps, strict=True)):
            if not isinstance(padding, str):
                yield padding[dim]
                continue
            total = 0 if padding.upper() == "VALID" else max((-(-size // s) - 1) * s + e - size, 0)
            yield (
                (total - total // 2, total // 2)
                if padding.upper() == "SAME_LOWER"
                else (total // 2, total - total // 2)
            )

    def _joins(self):
        """All (p, t, q): input position, tap, output position."""
        for q in itertools.product(*map(range, self.outputs)):
            for t in itertools.product(*map(range, self.kernel)):
                sizes = zip(q, t, self.steps, self.spacing, self.pads, self.stuffing, self.inputs, strict=True)
                found = [(divmod(a * s + b * r - low, d), size) for a, b, s, r, (low, _), d, size in sizes]
                if all(rest == 0 and 0 <= p < size for (p, rest), size in found):
                    yield tuple(p for (p, _), _ in found), t, q

    def _views(self, x, w, y):
        """With the axes b and g of the groups: x (b, n, g, c, *in), w (b, g, o, c, *k), y (n, b, g, o, *out)."""
        b, g = self.call.batch_group_count, self.call.feature_group_count
        x, w, y = (v.transpose(axes) for v, axes in ((x, self.x_axes), (w, self.w_axes), (y, self.y_axes)))
        return (
            x.reshape(b, self.n // b, g, self.i, *self.inputs),
            w.reshape(b, g, self.o // b // g, self.i, *self.kernel),
            y.reshape(self.n // b, b, g, self.o // b // g, *self.outputs),
        )

    def _sum(self, of, x=None, w=None, y=None):
        """The one of `x`, `w` and `y` that is None, by the two that are given."""
        n = self.n // self.call.batch_group_count
        shapes = {
            "x": _placed((self.n, self.c, *self.inputs), self.x_axes),
            "w": _placed((self.o, self.i, *self.kernel), self.w_axes),
            "y": _placed((n, self.o, *self.outputs), self.y_axes),
        }
        given = {name: _wide(value) for name, value in zip("xwy", (x, w, y), strict=True) if value is not None}
        found = np.zeros(shapes[of], np.result_type(*given.values()))
        views = dict(zip("xwy", self._views(*({**given, of: found}[name] for name in "xwy")), strict=True))
        letters = {"x": "bngc", "w": "bgoc", "y": "nbgo"}
        a, b = given
        total = np.zeros(views[of].shape, found.dtype)
        for places in self._joins():
            at = {name: (..., *place) for name, place in zip("xwy", places, strict=True)}
            product = f"{letters[a]},{letters[b]}->{letters[of]}"
            total[at[of]] += np.einsum(product, views[a][at[a]], views[b][at[b]])
        axes = {"x": self.x_axes, "w": self.w_axes, "y": self.y_axes}[of]
        return total.reshape([shapes[of][axis] for axis in axes]).transpose(np.argsort(axes))

    def output(self, x, w):
        return self._sum("y", x=x, w=w)

    def by_x(self, w, y):
        return self._sum("x", w=w, y=y)

    def by_w(self, x, y):
        return self._sum("w", x=x, y=y)


def _placed(sizes, axes):
    return tuple(sizes[axis] for axis in np.argsort(axes))


def _wide(array):
    kind = np.asarray(array).dtype.kind
    return np.asarray(array).astype({"c": np.complex128, "i": np.int64, "u": np.int64}.get(kind, np.float64))


def _axes(numbers, ndim):
    """The axes of (N, C, spatial), (O, I, spatial) and (N, C, spatial), the spatial ones in the kernel's order."""
    if numbers is None:
        return (range(ndim),) * 3
    if isinstance(numbers, lax.ConvDimensionNumbers):
        return numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    letters = [letter for letter in numbers[1] if letter not in "OI"]
    return [
        [spec.index(letter) for letter in (*first, *letters)]
        for spec, first in zip(numbers, ("NC", "OI", "NC"), strict=True)
    ]


@st.composite
def calls(draw, batch_groups=True):
    """Random calls; some of them have pads that cut off more than there is (`legal`)."""
    rank = draw(st.sampled_from([0, 1, 1, 1, 2, 2, 2, 3]))
    most = {0: 1, 1: 9, 2: 6, 3: 4}[rank]

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    sizes = tuple(0 if draw(st.integers(0, 29)) == 13 else size for size in each(1, most))
    kernel, strides = each(1, max(most - 2, 1)), draw(st.sampled_from([(1,) * rank, each(1, 3), each(1, 3)]))
    stuffing = draw(st.sampled_from([None, None, (1,) * rank, each(1, 3)]))
    spacing = draw(st.sampled_from([None, (1,) * rank, each(1, 2)]))
    if set(stuffing or (1,)) <= {1} and draw(st.booleans()):
        padding = draw(st.sampled_from(["SAME", "VALID", "SAME_LOWER", "same", "valid", "Same_Lower"]))
    else:
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, spacing or (1,) * rank, strict=True)]
        pads = [(draw(st.integers(-3, e + 2)), draw(st.integers(-3, e + 2))) for e in reach]
        padding = draw(st.sampled_from([tuple(pads), [[*pair] for pair in pads]]))
    groups, kind = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from(["feature", "feature", "batch"]))
    features, batches = (1, groups) if kind == "batch" and batch_groups else (groups, 1)
    n, i, o = draw(st.sampled_from([0, 1, 1, 2, 2, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    numbers = draw(st.sampled_from([None, "strings", "strings", "ints"]))
    letters = "XYZ"[:rank]
    specs = ("NC" + letters, "OI" + letters, "NC" + letters)
    if numbers is not None:
        specs = tuple("".join(draw(st.permutations(spec))) for spec in specs)
    order = [letter for letter in specs[1] if letter in letters]  # in which strides and the rest are given
    lhs = dict(N=n * batches, C=i * features, **dict(zip(order, sizes, strict=True)))
    rhs = dict(O=o * groups, I=i, **dict(zip(order, kernel, strict=True)))
    given = {None: None, "strings": specs, "ints": lax.ConvDimensionNumbers(*map(tuple, _axes(specs, rank + 2)))}
    return Call(
        tuple(lhs[letter] for letter in specs[0]),
        tuple(rhs[letter] for letter in specs[1]),
        strides,
        padding,
        stuffing,
        spacing,
        given[numbers],
        features,
        batches,
    )
