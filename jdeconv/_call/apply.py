"""The one way from a facade to the operator: arrays in any layout, the layout, the geometry, and how to compute."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from .._arguments import shown
from .._dtypes import at_least_float32
from .._errors import either, refusal
from .._formulations import METHODS
from .._geometry import Geometry
from .._jax_operations import lax
from .._operator.primitive import kept_from_folding, solve
from .._plan.choose import AUTO
from .explicit_mesh import Dimension, channels, on_mesh

ONE_POSITION = Geometry((1,), (1,), (1,), (1,), (1,), (0,))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which axes of the caller's arrays are which, and how the channels fall into groups."""

    input: tuple[int, ...]
    """The axes of batch, spatial dimensions and channels, in this order."""
    kernel: tuple[int, ...]
    """The axes of spatial dimensions, output channels and input channels."""
    output: tuple[int, ...]
    """As `input`, for the result."""
    groups: int = 1
    slides: bool = False
    """True: lax's kernel, last tap first, with the output channels of all groups. False: the kernel of the strided
    convolution, first tap first, with the input channels of all groups."""

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.input) - 2

    def input_sizes(self, x: jax.Array) -> tuple[Any, ...]:
        """The input's spatial sizes."""
        return tuple(x.shape[axis] for axis in self.input[1:-1])

    def kernel_sizes(self, w: jax.Array) -> tuple[int, ...]:
        """The kernel's spatial sizes."""
        return tuple(w.shape[axis] for axis in self.kernel[:-2])


def tensorflow_layout(rank: int, channel_axis: int, groups: int = 1) -> Layout:
    """Images with channels at `channel_axis`, kernels `(*k, out / groups, in)`."""
    image = (0, *(axis for axis in range(1, rank + 2) if axis != channel_axis), channel_axis)
    return Layout(image, tuple(range(rank + 2)), image, groups)


def torch_layout(rank: int, groups: int) -> Layout:
    """Images with channels first, kernels `(in, out / groups, *k)`."""
    image = (0, *range(2, rank + 2), 1)
    return Layout(image, (*range(2, rank + 2), 1, 0), image, groups)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("x", "w"),
    meta_fields=("layout", "geometry", "dtype", "precision", "method", "result"),
)
@dataclasses.dataclass(frozen=True)
class Call:
    """A facade's call after all checks, for `convolve`. A pytree, so that `jax.eval_shape` can return it."""

    x: jax.Array
    w: jax.Array
    layout: Layout
    geometry: Geometry
    dtype: np.dtype[Any]
    """Of sums and result."""
    precision: Any
    method: str
    result: str = "output"
    """The role that is solved for: "output" is the transposed convolution of x, "input" the convolution of x."""

    @property
    def operator_geometry(self) -> Geometry:
        """The geometry with at least one spatial dimension: a matrix product is one position and one tap."""
        return self.geometry if self.layout.rank else ONE_POSITION

    @property
    def image_shape(self) -> tuple[Any, ...]:
        """x as the operator's operand: `(n, *in, g, i)`, or `(n, *out, g, o)` where the convolution is asked for."""
        batch, channels = (self.x.shape[self.layout.input[end]] for end in (0, -1))
        geometry = self.operator_geometry
        spatial = geometry.input if self.result == "output" else geometry.output
        return (batch, *spatial, self.layout.groups, channels // self.layout.groups)

    @property
    def kernel_shape(self) -> tuple[Any, ...]:
        """`(*k, o, g, i)`, the operator's kernel."""
        groups = self.layout.groups
        outputs, inputs = (self.w.shape[axis] for axis in self.layout.kernel[-2:])
        if self.layout.slides:
            outputs //= groups
        else:
            inputs //= groups
        return (*self.operator_geometry.kernel, outputs, groups, inputs)


def convolve(call: Call) -> jax.Array:
    """The transposed convolution or the convolution, in the layout and with the dtype that the call asks for.

    On a mesh with explicit axes the result's batch and space are split as x's. Its channels are split as the groups,
    and as the kernel's channels that it has.
    """
    layout, groups, result = call.layout, call.layout.groups, call.result
    batch_axis, *spatial_axes, channel_axis = layout.input
    *_, kernel_outputs, kernel_inputs = layout.kernel
    given, axis_of_result, place = (
        ("input", kernel_outputs, -3) if result == "output" else ("output", kernel_inputs, -1)
    )
    sizes = (call.x.shape[batch_axis], *getattr(call.geometry, result))
    channel_count = call.kernel_shape[place] * groups
    # Which of (batch, *spatial, channels) each dimension of the result is.
    order = np.argsort(layout.output).tolist()

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        x = x.transpose(layout.input).reshape(call.image_shape)
        w = w.transpose(layout.kernel)
        if layout.slides:
            w = w.reshape(*w.shape[:-2], groups, w.shape[-2] // groups, w.shape[-1])
            w = lax.rev(w.swapaxes(-2, -3), range(layout.rank))
        operands = {given: kept_from_folding(x, call.x, call.w), "kernel": w.reshape(call.kernel_shape)}
        options = dict(dtype=call.dtype, precision=call.precision, method=call.method)
        y = solve(result, call.operator_geometry, **options, **operands)  # type: ignore[arg-type]
        return y.reshape(*sizes, channel_count).transpose(order)

    dimensions = [
        *(Dimension(size, ((0, axis),)) for size, axis in zip(sizes, (batch_axis, *spatial_axes), strict=True)),
        channels(
            channel_count, groups, channel_axis, axis_of_result, kernel_outputs if layout.slides else kernel_inputs
        ),
    ]
    return on_mesh(compute, call.x, call.w, [dimensions[axis] for axis in order])


def method_for(method: Any) -> str:
    """'auto' or the name of a formulation."""
    names = (AUTO, *METHODS)
    if not isinstance(method, str) or method not in names:
        raise refusal(
            ValueError,
            "method",
            shown(method),
            "unknown",
            f"expected {either(map(repr, names))}",
            "Use 'auto', which picks the fastest that is known.",
        )
    return method


def with_bias(y: jax.Array, bias: jax.Array | None, channel_axis: int) -> jax.Array:
    """y and, in each channel, its bias.

    Added in float32 at least: the bias's gradient is summed in the type of the sum, and XLA CPU's sums in bfloat16 were
    8 to 19 % off.
    """
    if bias is None:
        return y
    wide = at_least_float32(y.dtype)
    shape = [1] * y.ndim
    shape[channel_axis] = -1
    return (y.astype(wide) + bias.astype(wide).reshape(shape)).astype(y.dtype)
