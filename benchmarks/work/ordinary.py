"""Single ordinary convolutions, of the sizes that networks have: what a transposed convolution is the transpose of."""

import dataclasses
import math
from typing import Any

from .cases import Convolution


@dataclasses.dataclass(frozen=True)
class Ordinary(Convolution):
    """One ordinary convolution, padded as much at both ends unless `padding` is `'valid'` or `'causal'`."""

    kind: str = "ordinary"
    dilation: int = 1
    padding: str = "same"

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        reach = [(k - 1) * self.dilation for k in self.kernel]
        if self.padding == "causal":
            return tuple((cells, 0) for cells in reach)
        return tuple((cells // 2,) * 2 if self.padding == "same" else (0, 0) for cells in reach)

    @property
    def out_size(self) -> tuple[int, ...]:
        return tuple(
            (n + low + high - (k - 1) * self.dilation - 1) // s + 1
            for n, (low, high), k, s in zip(self.size, self.pads, self.kernel, self.stride, strict=True)
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """x `(N, *in, C_in)`, w `(*K, C_in / groups, C_out)`, y `(N, *out, C_out)`."""
        return (
            (self.batch, *self.size, self.c_in),
            (*self.kernel, self.c_in // self.groups, self.c_out),
            (self.batch, *self.out_size, self.c_out),
        )

    @property
    def terms(self) -> int:
        return self.batch * math.prod(self.out_size)

    @property
    def label(self) -> str:
        dilation = f", d {self.dilation}" if self.dilation > 1 else ""
        causal = ", causal" if self.padding == "causal" else ""
        return super().label + dilation + causal


def _cube(
    name: str, batch: int, size: int, channels: tuple[int, int], kernel: int, stride: int, rank: int = 2, **more: Any
) -> Ordinary:
    """The same numbers in all dimensions; where the kernel is the stride, patches without padding."""
    sizes, kernels, strides = ((number,) * rank for number in (size, kernel, stride))
    padding = {"padding": "valid"} if kernel == stride else {}
    return Ordinary(f"conv-{name}", batch, sizes, *channels, kernels, strides, **padding | more)


def _depthwise(name: str, batch: int, size: int, channels: int, kernel: int, stride: int, **more: Any) -> Ordinary:
    outputs = more.pop("outputs", channels)
    return _cube(f"dw-{name}", batch, size, (channels, outputs), kernel, stride, groups=channels, **more)


ORDINARY = (
    # Dense: ResNet, MobileNetV2's last, VGG, Inception, DCGAN's discriminator, large kernels.
    _cube("k1", 8, 28, (256, 512), 1, 1),
    _cube("k1-narrow", 8, 56, (64, 64), 1, 1),
    _cube("k1-last", 1, 7, (320, 1280), 1, 1),
    _cube("k1s2", 8, 56, (256, 512), 1, 2),
    _cube("k3", 4, 64, (64, 64), 3, 1),
    _cube("k3-one", 1, 14, (256, 256), 3, 1),
    _cube("k3-many", 32, 14, (128, 128), 3, 1),
    _cube("k3-deep", 8, 7, (512, 512), 3, 1),
    _cube("k3s2", 8, 28, (128, 256), 3, 2),
    _cube("k4s2", 16, 32, (64, 128), 4, 2),
    _cube("k5", 8, 28, (32, 96), 5, 1),
    _cube("k5s2", 8, 32, (64, 128), 5, 2),
    _cube("k7", 2, 56, (64, 64), 7, 1),
    # First layers and last layers.
    _cube("first-k3", 8, 112, (3, 64), 3, 1),
    _cube("first-k3s2", 8, 96, (3, 32), 3, 2),
    _cube("first-k7s2", 4, 112, (3, 64), 7, 2),
    _cube("last-k1", 4, 64, (64, 2), 1, 1),
    _cube("last-k3", 4, 64, (64, 3), 3, 1),
    _cube("last-k7", 1, 128, (64, 3), 7, 1),
    # Patches: ViT, ConvNeXt's stem and its downsampling.
    _cube("patch16", 8, 224, (3, 384), 16, 16),
    _cube("patch4", 4, 64, (3, 96), 4, 4),
    _cube("patch2", 4, 28, (192, 384), 2, 2),
    # Depthwise: MobileNetV2, EfficientNet, ConvNeXt, a multiplier, Conformer, a state-space model's.
    _depthwise("k3", 8, 28, 128, 3, 1),
    _depthwise("k3s2", 8, 56, 144, 3, 2),
    _depthwise("k5", 8, 14, 240, 5, 1),
    _depthwise("k5s2", 4, 56, 144, 5, 2),
    _depthwise("k7", 4, 28, 192, 7, 1),
    _depthwise("k7s2", 4, 28, 96, 7, 2),
    _depthwise("k3-multiplier", 4, 28, 32, 3, 1, outputs=64),
    _depthwise("k31-1d", 4, 400, 144, 31, 1, rank=1),
    _depthwise("k4-causal", 2, 1024, 512, 4, 1, rank=1, padding="causal"),
    # Groups: ResNeXt, AlexNet, ShuffleNet.
    _cube("groups32", 8, 28, (256, 256), 3, 1, groups=32),
    _cube("groups32-s2", 1, 28, (256, 256), 3, 2, groups=32),
    _cube("groups2-k5", 2, 27, (96, 256), 5, 1, groups=2),
    _cube("groups3-k1", 8, 28, (240, 240), 1, 1, groups=3),
    # Dilated: DeepLab, WaveNet, temporal convolutional networks.
    _cube("dilated2", 4, 28, (128, 128), 3, 1, dilation=2),
    _cube("dilated12", 1, 33, (512, 256), 3, 1, dilation=12),
    _cube("wavenet", 1, 4096, (64, 64), 2, 1, rank=1, dilation=64, padding="causal"),
    _cube("tcn", 8, 1024, (128, 128), 3, 1, rank=1, dilation=8, padding="causal"),
    # 1-D and 3-D: speech, medical images, video.
    _cube("1d-k7", 8, 4096, (64, 64), 7, 1, rank=1),
    _cube("1d-k3s2", 2, 800, (512, 512), 3, 2, rank=1, padding="valid"),
    _cube("1d-k10s5", 2, 8000, (1, 512), 10, 5, rank=1, padding="valid"),
    _cube("3d-k3", 1, 32, (32, 32), 3, 1, rank=3),
    _cube("3d-k3s2", 1, 32, (16, 32), 3, 2, rank=3),
    Ordinary("conv-3d-first", 1, (16, 56, 56), 3, 64, (3, 3, 3), (1, 1, 1)),
    Ordinary("conv-3d-patches", 1, (16, 56, 56), 3, 96, (2, 4, 4), (2, 4, 4), padding="valid"),
)
