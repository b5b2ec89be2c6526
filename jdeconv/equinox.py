"""Equinox's `ConvTranspose` layers, trained fast."""

import copy
from collections.abc import Sequence
from typing import Any

import equinox
import jax

from ._arguments import described, integers, shown
from ._call.apply import Call, convolve, method_for
from ._call.arrays import Names, precision_now, python_values, result_type
from ._call.lax_arguments import arrays_and_layout, geometry_of
from ._call.output_shape import spatial_only
from ._errors import blames_caller, refusal
from ._geometry import Undecidable, Unreachable
from ._size_errors import unreachable

NAMES = Names(
    "x",
    "weight",
    "Give the layer as many channels as it was made for.",
    dilations="dilation",
    groups="groups",
    batch_added=True,
)


class ConvTranspose(equinox.nn.ConvTranspose):
    """`equinox.nn.ConvTranspose`, its convolution computed by jdeconv: same parameters, same outputs, fast gradients.

    It takes Equinox's arguments, `key` among them, and has the same leaves with the same initial values from the same
    key, so that what `equinox.tree_serialise_leaves` wrote for one is read into the other. Beyond it:

    Args:
      method: the formulation: `'auto'` (default), `'lax'`, `'phase'`, `'gemm'`, `'taps'` or `'pallas'`. Keyword only.

    `__call__(x, *, key=None, output_shape=None)`: `output_shape` asks for spatial sizes (an int or a symbolic
    dimension, or one for each dimension), in place of `output_padding`: any sizes that the layer's strided convolution
    maps to the input's.

    Raises: ValueError for an input of another rank or sizes that are not reachable, NotImplementedError for
    `output_shape` with `padding_mode='CIRCULAR'`; else what Equinox's constructor raises.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = ConvTranspose2d(4, 8, kernel_size=3, stride=2, padding="SAME", key=jax.random.key(0))
      >>> layer(jnp.ones((4, 5, 5))).shape, layer(jnp.ones((4, 5, 5)), output_shape=9).shape
      ((8, 10, 10), (8, 9, 9))

    Semantics: Equinox 0.13 (tests/facades/test_equinox.py).
    """

    method: str = equinox.field(static=True)

    @blames_caller
    def __init__(
        self,
        num_spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = 0,
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: Any = None,
        *,
        key: Any,
        method: str = "auto",
    ) -> None:
        # Equinox's constructor of any rank, by name: super() would reach its classes of one rank, which take no rank.
        equinox.nn.ConvTranspose.__init__(
            self,
            python_values(num_spatial_dims),
            python_values(in_channels),
            python_values(out_channels),
            python_values(kernel_size),
            python_values(stride),
            python_values(padding),
            python_values(output_padding),
            python_values(dilation),
            python_values(groups),
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )
        for name in ("stride", "dilation"):
            integers(name, getattr(self, name), least=1)
        self.method = method_for(method)

    @blames_caller
    @jax.named_scope("jdeconv.equinox.ConvTranspose")
    def __call__(self, x: jax.Array, *, key: Any = None, output_shape: Any = None) -> jax.Array:
        """`[in_channels, spatial...]` to `[out_channels, spatial...]`; `key` is ignored."""
        del key
        ndim = getattr(x, "ndim", None)
        if ndim != self.num_spatial_dims + 1:
            raise refusal(
                TypeError if ndim is None else ValueError,
                "x",
                described(x),
                "not an array" if ndim is None else f"{ndim} dimensions",
                f"expected {self.num_spatial_dims + 1}, channels first and no batch",
                "For a batch, use jax.vmap(layer).",
            )
        padding = self._padding_for(x.shape[1:], output_shape)
        if self.padding_mode == "CIRCULAR":
            x, padding = self._circular_pad(x, padding)
        batch, w, layout = arrays_and_layout(x[None], self.weight, None, self.groups, names=NAMES)
        sizes = self.stride, self.dilation, padding
        geometry = geometry_of(batch, w, layout, *sizes, names=NAMES, padding=self.padding)
        dtype = result_type(NAMES, batch, w, None, like_lax=True)
        y = convolve(Call(batch, w, layout, geometry, dtype, precision_now(None), self.method))[0]
        return y if self.bias is None else y + self.bias

    def _padding_for(self, sizes: tuple[int, ...], output_shape: Any) -> Any:
        """Equinox's padding of the dilated input, with the `output_padding` that `output_shape` asks for."""
        if output_shape is None:
            return self._padding_transpose()
        if self.padding_mode == "CIRCULAR":
            raise refusal(
                NotImplementedError,
                "output_shape",
                shown(output_shape),
                "given with padding_mode='CIRCULAR'",
                "expected None",
                "Crop the output.",
            )
        wanted = spatial_only(output_shape, self.num_spatial_dims)
        same = isinstance(self.padding, str) and self.padding != "VALID"
        extra = []
        dims = zip(
            sizes,
            wanted,
            self.kernel_size,
            self.stride,
            self.dilation,
            self._padded_by((0,) * self.num_spatial_dims),
            strict=True,
        )
        for dim, (size, want, k, s, d, pads) in enumerate(dims):
            default = (size - 1) * s + 1 + sum(pads) - (k - 1) * d
            more = default - want if same else want - default
            if not isinstance(more, int):
                undecidable = Undecidable(dim, f"{default} - {want} is a constant")
                raise unreachable(undecidable, "output_shape", output_shape, self.padding, sizes, self.stride, wanted)
            if not 0 <= more < s:
                smallest, largest = (default - s + 1, default) if same else (default, default + s - 1)
                error = Unreachable(dim, max(smallest, 0) if isinstance(smallest, int) else smallest, largest)
                raise unreachable(error, "output_shape", output_shape, self.padding, sizes, self.stride, wanted)
            extra.append(more)
        return self._padded_by(tuple(extra))

    def _padded_by(self, output_padding: tuple[int, ...]) -> Any:
        """Equinox's padding of the dilated input for that `output_padding`."""
        other = copy.copy(self)
        object.__setattr__(other, "output_padding", output_padding)
        return other._padding_transpose()


class ConvTranspose1d(ConvTranspose, equinox.nn.ConvTranspose1d):
    """`ConvTranspose` with `equinox.nn.ConvTranspose1d`'s arguments: `output_padding` stands before `padding`."""

    @blames_caller
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        output_padding: int | Sequence[int] = 0,
        padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: Any = None,
        *,
        key: Any,
        method: str = "auto",
    ) -> None:
        super().__init__(
            1,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
            method=method,
        )


class ConvTranspose2d(ConvTranspose, equinox.nn.ConvTranspose2d):
    """`ConvTranspose` with `equinox.nn.ConvTranspose2d`'s arguments: `output_padding` stands before `padding`."""

    @blames_caller
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = (1, 1),
        output_padding: int | Sequence[int] = (0, 0),
        padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = (0, 0),
        dilation: int | Sequence[int] = (1, 1),
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: Any = None,
        *,
        key: Any,
        method: str = "auto",
    ) -> None:
        super().__init__(
            2,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
            method=method,
        )


class ConvTranspose3d(ConvTranspose, equinox.nn.ConvTranspose3d):
    """`ConvTranspose` with `equinox.nn.ConvTranspose3d`'s arguments: `output_padding` stands before `padding`."""

    @blames_caller
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = (1, 1, 1),
        output_padding: int | Sequence[int] = (0, 0, 0),
        padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = (0, 0, 0),
        dilation: int | Sequence[int] = (1, 1, 1),
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: Any = None,
        *,
        key: Any,
        method: str = "auto",
    ) -> None:
        super().__init__(
            3,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
            method=method,
        )
