"""Layers of real networks, as their papers have them: the widest variety of geometries that users bring."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, or the one that a transposed convolution is the transpose of. Images `size`, channels last."""

    network: str
    size: tuple[int, ...]
    inputs: int
    outputs: int
    taps: tuple[int, ...]
    stride: int = 1
    pads: tuple[tuple[int, int], ...] | None = None
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Half the window's reach at both ends, unless the table says otherwise."""
        return self.pads or tuple(((k - 1) * self.dilation // 2,) * 2 for k in self.taps)


def _square(network: str, size: int, inputs: int, outputs: int, taps: int, stride: int = 1, **more: object) -> Layer:
    rank = more.pop("rank", 2)
    if "pad" in more:
        more["pads"] = ((more.pop("pad"),) * 2,) * rank
    return Layer(network, (size,) * rank, inputs, outputs, (taps,) * rank, stride, **more)


LAYERS = (
    # The transposed layers' shapes are of the convolution that they transpose: its image is their result.
    _square("DCGAN", 4, 1024, 100, 4, pad=0),
    _square("DCGAN", 8, 512, 1024, 4, 2),
    _square("DCGAN", 16, 256, 512, 4, 2),
    _square("DCGAN", 64, 3, 128, 4, 2),
    _square("StyleGAN2", 33, 512, 512, 3, 2, pad=0),
    _square("StyleGAN2", 129, 64, 128, 3, 2, pad=0),
    _square("pix2pix", 256, 3, 64, 4, 2),
    _square("pix2pix", 31, 512, 1, 4),
    _square("CycleGAN", 262, 3, 64, 7, pad=0),
    _square("CycleGAN", 64, 256, 256, 3),
    _square("U-Net", 572, 1, 64, 3, pad=0),
    _square("U-Net", 56, 512, 1024, 2, 2, pad=0),
    _square("U-Net", 388, 64, 2, 1),
    _square("V-Net", 32, 16, 32, 5, rank=3),
    _square("V-Net", 64, 16, 32, 2, 2, rank=3, pad=0),
    _square("3D U-Net", 44, 128, 128, 3, rank=3, pad=0),
    _square("FCN", 70, 21, 21, 4, 2, pad=0),
    _square("FCN", 568, 21, 21, 16, 8, pad=0),
    _square("ESPCN", 17, 64, 32, 3),
    _square("FSRCNN", 99, 1, 56, 9, 3, pads=((4, 4), (4, 4))),
    _square("SRGAN", 24, 64, 256, 3),
    _square("SRGAN", 96, 3, 64, 9),
    _square("ResNet", 224, 3, 64, 7, 2),
    _square("ResNet", 56, 64, 64, 1),
    _square("ResNet", 56, 256, 512, 1, 2),
    _square("ResNet", 28, 128, 128, 3, 2),
    _square("ResNet", 7, 512, 512, 3),
    _square("ResNeXt", 28, 256, 256, 3, groups=32),
    _square("ResNeXt", 56, 512, 512, 3, 2, groups=32),
    _square("AlexNet", 227, 3, 96, 11, 4, pad=0),
    _square("AlexNet", 27, 96, 256, 5, groups=2),
    _square("VGG", 224, 3, 64, 3),
    _square("VGG", 14, 512, 512, 3),
    _square("VGG's classifier", 7, 512, 4096, 7, pad=0),
    _square("Inception", 28, 32, 96, 5),
    Layer("Inception", (17, 17), 192, 192, (1, 7)),
    Layer("Inception", (17, 17), 160, 192, (7, 1)),
    _square("MobileNet", 224, 3, 32, 3, 2),
    _square("MobileNet", 7, 320, 1280, 1),
    _square("ShuffleNet", 28, 240, 240, 1, groups=3),
    _square("EfficientNet", 56, 24, 144, 1),
    _square("ConvNeXt", 224, 3, 96, 4, 4, pad=0),
    _square("ConvNeXt", 56, 96, 192, 2, 2, pad=0),
    _square("ViT", 224, 3, 768, 16, 16, pad=0),
    _square("DeepLab", 33, 2048, 256, 3, dilation=12),
    _square("DeepLab", 65, 512, 512, 3, dilation=2),
    _square("YOLO", 416, 3, 32, 3),
    _square("YOLO", 13, 1024, 255, 1),
    _square("Mask R-CNN", 28, 80, 256, 1),
    _square("Stable Diffusion", 64, 4, 320, 3),
    _square("Stable Diffusion", 32, 640, 640, 3, 2, pads=((0, 1), (0, 1))),
    _square("WaveNet", 1024, 64, 128, 2, rank=1, pads=((256, 0),), dilation=256),
    _square("WaveGAN", 16384, 1, 64, 25, 4, rank=1, pads=((11, 10),)),
    _square("WaveGAN", 64, 512, 1024, 25, 4, rank=1, pads=((11, 10),)),
    _square("HiFi-GAN", 8192, 32, 1, 7, rank=1),
    _square("HiFi-GAN", 512, 256, 512, 16, 8, rank=1, pads=((4, 4),)),
    _square("HiFi-GAN", 2048, 128, 128, 11, rank=1, dilation=5),
    _square("Demucs", 4096, 64, 128, 8, 4, rank=1, pads=((2, 2),)),
    _square("wav2vec 2.0", 8000, 1, 512, 10, 5, rank=1, pad=0),
    _square("wav2vec 2.0", 199, 768, 768, 128, rank=1, groups=16, pads=((64, 63),)),
    _square("Whisper", 3000, 80, 512, 3, rank=1),
    _square("Whisper", 3000, 512, 512, 3, 2, rank=1),
    Layer("I3D", (16, 112, 112), 3, 64, (7, 7, 7), 2),
    Layer("R(2+1)D", (16, 56, 56), 64, 144, (1, 3, 3)),
    Layer("R(2+1)D", (16, 56, 56), 144, 64, (3, 1, 1)),
    Layer("EEGNet", (64, 128), 1, 8, (1, 64)),
    Layer("EEGNet", (64, 128), 8, 16, (64, 1), pads=((0, 0), (0, 0)), groups=8),
    Layer("Deep Speech 2", (161, 400), 1, 32, (41, 11), 2),
)  # fmt: skip
