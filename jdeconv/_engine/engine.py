"""What runs a formulation's convolutions and products: XLA, or oneDNN behind the signatures of `jax.lax`."""

import dataclasses
import math
import string
from typing import Any

import jax
import numpy as np
from jaxlib import version

from .._dtypes import at_least_float32
from .._geometry import surely_positive
from .._jax_operations import jnp, lax
from .._plan.engine_kind import XLA, EngineKind
from .._plan.problem import Problem
from . import onednn

MOST_SPLIT_GROUPS = 32
MANY_POSITIONS = 2**15
ONEDNN_DTYPES = ("float32", "bfloat16", "float16")
# Before jaxlib 0.11 XLA CPU drops barriers before it fuses.
BARRIERS_HOLD = tuple(map(int, version.__version__.split(".")[:2])) >= (0, 11)


@dataclasses.dataclass(frozen=True)
class Engine:
    """What runs a formulation's convolutions and products, at one precision and with one type of result."""

    precision: Any
    dtype: Any
    platform: str
    """'cpu', 'gpu' or 'tpu'; 'other' where XLA's partitioner may split the program over devices."""
    onednn: bool = False
    """Whether jaxlib's oneDNN runs what it is proven for; it gets other 16-bit floats widened, as XLA CPU does."""

    def conv(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        *,
        dimension_numbers: lax.ConvDimensionNumbers,
        feature_group_count: int = 1,
        **arguments: Any,
    ) -> jax.Array:
        """`lax.conv_general_dilated` with this engine's precision and result type."""
        arguments |= dict(dimension_numbers=dimension_numbers, precision=self.precision)
        grouped = dict(arguments, feature_group_count=feature_group_count)
        # XLA CPU runs a dense convolution for each group 2 to 6 times faster than a grouped one (2 to 32 groups, all
        # three results). Each is an operation to compile, so their number is bounded. oneDNN's grouped ones are fast.
        splits = self.platform == "cpu" and 1 < feature_group_count <= MOST_SPLIT_GROUPS
        if not splits or self._groups_at_once(lhs, rhs, grouped):
            return self._conv(lhs, rhs, **grouped)
        # The first two entries of a spec are batch and channels, or output and input channels.
        lhs_groups = jnp.split(lhs, feature_group_count, dimension_numbers.lhs_spec[1])
        rhs_groups = jnp.split(rhs, feature_group_count, dimension_numbers.rhs_spec[0])
        dense = [self._conv(a, b, **arguments) for a, b in zip(lhs_groups, rhs_groups, strict=True)]
        return lax.concatenate(dense, dimension_numbers.out_spec[1])

    def _groups_at_once(self, lhs: jax.Array, rhs: jax.Array, arguments: dict[str, Any]) -> bool:
        """Whether all groups go to oneDNN in one call, which widens 16-bit floats.

        bfloat16 of 32 or more outputs a group goes group by group: by AMX, 4, 14x14, 2 times 128 to 128, k 4, s 2:
        2.8 ms, not 9.2. Of 8 outputs a group (8 times 16 to 8) it would be slower.
        """
        outputs = rhs.shape[arguments["dimension_numbers"].rhs_spec[0]] // arguments["feature_group_count"]
        split = lhs.dtype == "bfloat16" and onednn.computes_in("bfloat16") and outputs >= 32
        return self.onednn and not split and not onednn.refuses_conv(self.widened(lhs), self.widened(rhs), **arguments)

    def _conv(self, lhs: jax.Array, rhs: jax.Array, **arguments: Any) -> jax.Array:
        arguments["preferred_element_type"] = self.dtype
        if not self.onednn:
            return lax.conv_general_dilated(lhs, rhs, **arguments)
        if lhs.dtype == self.sum_dtype:
            return onednn.conv(lhs, rhs, **arguments)
        return onednn.conv(lhs, rhs, otherwise=self._widened_conv, **arguments)

    def _widened_conv(self, lhs: jax.Array, rhs: jax.Array, **arguments: Any) -> jax.Array:
        """oneDNN computes in 32 bits what it is not proven for in 16."""
        arguments["preferred_element_type"] = self.sum_dtype
        return onednn.conv(self.widened(lhs), self.widened(rhs), **arguments)

    def product(self, a: jax.Array, b: jax.Array, letters: str) -> jax.Array:
        """`einsum` of two operands; `_` in `letters` stands for the positions: the batch and the spatial dimensions."""
        if self.onednn and letters == "_gi,ogi->_go" and a.shape[-2] > 1:
            return self._grouped_product(a, b)
        flat: list[jax.Array] = []
        spatial: tuple[Any, ...] = ()
        # Positions are merged into one axis, unless sizes are symbolic: JAX may not know that a product, like that of
        # h - 1 and w - 1, is a size. Then each dimension keeps its axis.
        merged = all(isinstance(size, int) for size in (*a.shape, *b.shape))
        roles, result = letters.split("->")
        for v, side in zip((a, b), roles.split(","), strict=True):
            before, has_positions, after = side.partition("_")
            if has_positions:
                spatial = v.shape[len(before) : v.ndim - len(after)]
                if merged:
                    v = v.reshape(*v.shape[: len(before)], -1, *v.shape[v.ndim - len(after) :])
            flat.append(v)
        place = result.find("_")
        positions = "p" if merged else string.ascii_uppercase[: len(spatial)]
        roles, result = (part.replace("_", positions) for part in (roles, result))
        # With a group axis XLA CPU transposes an operand first. That pays in a sum over positions, unless there are
        # many: 4096 positions, 1024 by 512 channels: 25 ms, without it 28; 131072, 64 by 64: 43, without it 14.
        sums_few = place < 0 and merged and math.prod(spatial) < MANY_POSITIONS
        letters, group = f"{roles}->{result}", result.index("g")
        one_group = flat[0].shape[roles.index("g")] == 1 and not sums_few
        if one_group:
            flat = [v.squeeze(side.index("g")) for v, side in zip(flat, roles.split(","), strict=True)]
            letters = letters.replace("g", "")
        sums = self.sum_dtype
        if jnp.issubdtype(sums, np.integer) and np.dtype(sums).itemsize <= 4:
            # Right modulo 2**32 is right modulo less, and XLA CPU multiplies no other integers fast: int16, 2048 by 128
            # by 1024: 6 ms, not 276.
            sums = np.dtype("int32")
            flat = [v if v.dtype == "int8" else v.astype(sums) for v in flat]
        y = jnp.einsum(letters, *flat, precision=self.precision, preferred_element_type=sums).astype(self.sum_dtype)
        if one_group:
            y = jnp.expand_dims(y, group)
        return y.reshape(*y.shape[:place], *spatial, *y.shape[place + 1 :]) if merged and place >= 0 else y

    def _grouped_product(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """A convolution of one tap: 4, 28x28, 8 times 16 to 8, k 3, s 2: 0.9 ms in all, by XLA's product 1.3."""
        rank, (o, groups, i) = x.ndim - 3, w.shape
        last = (0, rank + 1, *range(1, rank + 1))  # the axes of batch, channels and positions
        y = self.for_terms.conv(
            x.reshape(*x.shape[:-2], groups * i),
            lax.transpose(w, (1, 0, 2)).reshape(*(1,) * rank, groups * o, i),
            window_strides=(1,) * rank,
            padding=[(0, 0)] * rank,
            dimension_numbers=lax.ConvDimensionNumbers(last, (rank, rank + 1, *range(rank)), last),
            feature_group_count=groups,
        )
        return y.reshape(*x.shape[:-2], groups, o)

    def widened(self, x: jax.Array) -> jax.Array:
        """`x` in the type that sums are made in."""
        return x.astype(self.sum_dtype)

    def materialised(self, x: jax.Array) -> jax.Array:
        """`x`, computed once: XLA CPU would compute it anew for each window that reads it."""
        return materialised(x) if self.platform == "cpu" else x

    @property
    def for_terms(self) -> "Engine":
        """The engine for convolutions that give terms of a sum: oneDNN need not round these to 16 bits."""
        return dataclasses.replace(self, dtype=self.sum_dtype) if self.onednn else self

    @property
    def sum_dtype(self) -> Any:
        """The type of sums made here, and not inside one operation of XLA."""
        return at_least_float32(self.dtype)


def cpu_engine_kind(problem: Problem) -> EngineKind:
    """What runs this problem's convolutions on a CPU, in a program that may call oneDNN."""
    if problem.dtype not in ONEDNN_DTYPES:
        return XLA
    bfloat16 = problem.dtype == "bfloat16" and onednn.unavailable("bfloat16") is None
    if not bfloat16 and onednn.unavailable() is not None:
        return XLA
    return EngineKind(onednn=True, bfloat16=bfloat16, amx=bfloat16 and onednn.has_amx())


def materialised(x: jax.Array) -> jax.Array:
    """`x`, written to memory: XLA CPU then fuses its computation into nothing that reads it."""
    if BARRIERS_HOLD:
        return lax.optimization_barrier(x)
    if not surely_positive(*x.shape):  # a symbolic size may be 0
        return x

    # A loop's result is in memory. This one writes an element of `x` to its own place, twice, which XLA can't foresee.
    def step(number: jax.Array, x: jax.Array) -> jax.Array:
        place: list[Any] = [number, *(0 for _ in x.shape[1:])]
        element = lax.dynamic_slice(x, place, (1,) * x.ndim)
        return lax.dynamic_update_slice(x, lax.select(number < 0, lax.full_like(element, 0), element), place)

    return lax.fori_loop(0, 2, step, x)
