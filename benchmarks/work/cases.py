"""What is measured: single transposed convolutions, an ensemble of them, and a sweep of random ones.

All channels last, with SAME padding and the default size, input times stride, which every peer can be asked for.
"""

import abc
import dataclasses
import math
import random
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
PASSES = ("forward", "train")  # train: the value and both gradients, for a given cotangent
DTYPES = ("float32", "bfloat16")


def rounded(array: Array, dtype: str) -> Array:
    """float32 with values that `dtype` can hold, so that every peer, in whatever type, is given the same numbers."""
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype("float32")


@dataclasses.dataclass(frozen=True)
class Convolution(abc.ABC):
    """What single convolutions share, transposed or not."""

    name: str
    batch: int
    size: tuple[int, ...]
    c_in: int
    c_out: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int = 1
    kind: str = "cases"

    @property
    @abc.abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of x, w and y, channels last."""

    @property
    @abc.abstractmethod
    def terms(self) -> int:
        """Products in each sum of the kernel gradient: one for each position that all taps meet."""

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def flops(self) -> int:
        """Of each of the three maps: a product and a sum for every such position, tap and pair of channels."""
        return 2 * self.terms * math.prod(self.kernel) * self.c_in * self.c_out // self.groups

    @property
    def elements(self) -> int:
        """Of x, w and y together: what each map must at least move."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def outputs(self) -> int:
        return math.prod(self.shapes[2])

    @property
    def label(self) -> str:
        """`16, 8², 512→256, k 4, s 2`."""
        size, kernel, stride = (powers(sizes) for sizes in (self.size, self.kernel, self.stride))
        groups = f", g {self.groups}" if self.groups > 1 else ""
        kernel, stride = (text.rstrip("²³") for text in (kernel, stride))
        return f"{self.batch}, {size}, {self.c_in}→{self.c_out}, k {kernel}, s {stride}{groups}"

    def arrays(self, dtype: str) -> tuple[Array, Array, Array]:
        """x, w and the cotangent."""
        rng = np.random.default_rng(0)
        x, w, y = (rounded(rng.standard_normal(shape, dtype="float32"), dtype) for shape in self.shapes)
        return x, w, y


def powers(sizes: tuple[int, ...]) -> str:
    return f"{sizes[0]}{' ²³'[len(sizes) - 1].strip()}" if len(set(sizes)) == 1 else "x".join(map(str, sizes))


@dataclasses.dataclass(frozen=True)
class Case(Convolution):
    """One transposed convolution."""

    @property
    def out_size(self) -> tuple[int, ...]:
        return tuple(size * stride for size, stride in zip(self.size, self.stride, strict=True))

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """x `(N, *in, C_in)`, w `(*K, C_out / groups, C_in)`, y `(N, *out, C_out)`."""
        return (
            (self.batch, *self.size, self.c_in),
            (*self.kernel, self.c_out // self.groups, self.c_in),
            (self.batch, *self.out_size, self.c_out),
        )

    @property
    def terms(self) -> int:
        return self.batch * math.prod(self.size)


def cube(
    name: str, batch: int, size: int, channels: tuple[int, int], kernel: int, stride: int, rank: int = 2, **more: Any
) -> Case:
    """A case with the same numbers in all its dimensions."""
    sizes = ((number,) * rank for number in (size, kernel, stride))
    in_size, kernels, strides = sizes
    return Case(name, batch, in_size, *channels, kernels, strides, **more)


CASES = (
    cube("dcgan4x4", 16, 8, (512, 256), 4, 2),
    cube("dcgan16", 16, 16, (256, 128), 4, 2),
    cube("dcgan32", 16, 32, (128, 64), 4, 2),
    cube("unet2x2", 4, 32, (512, 256), 2, 2),
    cube("unet2x2big", 1, 128, (128, 64), 2, 2),
    cube("k3s2", 8, 32, (128, 64), 3, 2),
    cube("k5s2", 8, 16, (256, 128), 5, 2),
    cube("fcn16x8", 1, 32, (21, 21), 16, 8),
    cube("rgbout", 8, 64, (64, 3), 4, 2),
    cube("k3s1", 8, 32, (128, 128), 3, 1),
    cube("k9s3", 2, 64, (56, 1), 9, 3),
    cube("istft1d", 4, 500, (513, 1), 1024, 256, rank=1),
    cube("hifigan1", 8, 32, (512, 256), 16, 8, rank=1),
    cube("hifigan2", 8, 256, (256, 128), 16, 8, rank=1),
    cube("hifigan3", 8, 2048, (128, 64), 4, 2, rank=1),
    cube("wavenc", 2, 4000, (64, 32), 10, 5, rank=1),
    Case("jax31662", 1, (64, 64, 32), 64, 1, (3, 3, 3), (2, 2, 2)),  # the case of jax#31662
    cube("vnet3d", 1, 16, (128, 64), 2, 2, rank=3),
    cube("bilin21", 1, 32, (21, 21), 16, 8, groups=21),
    cube("dw64", 4, 32, (64, 64), 4, 2, groups=64),
    cube("dw3", 8, 64, (3, 3), 4, 2, groups=3),
    cube("dw1d", 4, 400, (96, 96), 8, 4, rank=1, groups=96),
    cube("grp8", 4, 28, (128, 64), 3, 2, groups=8),
    cube("grp2", 4, 14, (256, 256), 4, 2, groups=2),
)

# Time per output element should not grow with either.
GROWTH = (
    *(cube(f"growth-batch-{batch}", batch, 32, (32, 16), 4, 2, kind="growth") for batch in (1, 4, 16, 64)),
    *(cube(f"growth-size-{size}", 1, size, (32, 16), 4, 2, kind="growth") for size in (32, 64, 128, 256, 512)),
)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """`members` of a case, each with its own input and kernel: what `vmap` over both operands is for."""

    name: str
    members: int
    case: Case
    kind: str = "vmap"
    groups: int = 1

    @property
    def flops(self) -> int:
        return self.members * self.case.flops

    @property
    def elements(self) -> int:
        return self.members * self.case.elements

    @property
    def outputs(self) -> int:
        return self.members * self.case.outputs

    @property
    def terms(self) -> int:
        return self.case.terms

    @property
    def label(self) -> str:
        return f"{self.members} x [{self.case.label}]"

    def arrays(self, dtype: str) -> tuple[Array, Array, Array]:
        rng = np.random.default_rng(0)
        shapes = ((self.members, *shape) for shape in self.case.shapes)
        x, w, y = (rounded(rng.standard_normal(shape, dtype="float32"), dtype) for shape in shapes)
        return x, w, y


ENSEMBLES = (Ensemble("vmap", 4, cube("member", 4, 16, (64, 32), 4, 2)),)


def sweep(count: int = 64, seed: int = 0) -> tuple[Case, ...]:
    """Random geometries, the same at every call: work for a tenth of a millisecond or more, for lax a second or so."""
    rng = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < count:
        case = _drawn(rng, f"sweep-{len(cases):02}", rank=(1, 2, 2, 3)[len(cases) % 4])
        # XLA's naive loops walk the dilated input, zeros included, more slowly in 3-D and for many groups.
        limit = 2e9 if case.rank < 3 and case.groups == 1 else 4e8 if case.groups == 1 else 2e8
        if case.flops >= 5e6 and case.flops * math.prod(case.stride) <= limit:
            cases.append(case)
    return tuple(cases)


def _drawn(rng: random.Random, name: str, rank: int) -> Case:
    def spread(low: int, high: int) -> int:
        """Every octave as likely as the next."""
        return int(2 ** rng.uniform(math.log2(low), math.log2(high + 1)))

    alike = rng.random() < 0.7
    steps = (1, 2, 2, 2, 3, 4, 5, 6, 7, 8)  # 2 is what most networks use
    low, high = {1: (16, 4096), 2: (4, 96), 3: (4, 24)}[rank]

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return (spread(low, high),) * rank if alike else tuple(spread(low, high) for _ in range(rank))

    groups = rng.choice((2, 4, 8, 16, 32)) if rng.random() < 0.3 else 1
    c_in, c_out = (groups * spread(1, 256 // groups) for _ in range(2))
    if groups > 1 and rng.random() < 0.5:  # depthwise
        c_in = c_out = groups
    return Case(
        name,
        spread(1, 16),
        sizes(low, high),
        c_in,
        c_out,
        sizes(1, 16),
        (rng.choice(steps),) * rank if alike else tuple(rng.choice(steps) for _ in range(rank)),
        groups,
        kind="sweep",
    )
