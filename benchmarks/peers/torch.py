"""PyTorch, eager, with autograd for the gradients; on a GPU where it is asked for and PyTorch has one."""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import machine
from ..work.cases import Array, Case
from ..work.ordinary import Ordinary
from ..work.stacks import Stack, Tensors, network
from .entry import Entry
from .layouts import channels_first, channels_last, from_io_kernel, io_kernel


def _mirrored(case: Case) -> tuple[bool, ...]:
    """The dimensions in which PyTorch is given mirrored images and kernels, and so computes the mirrored result.

    It pads both ends alike and can only add rows at the end. Where SAME cuts one row more from the end than from the
    start, as for kernel 3 with stride 2, that is just what the mirrored problem needs.
    """
    return tuple(k >= s for k, s in zip(case.kernel, case.stride, strict=True))


def _geometry(case: Case) -> dict[str, Any]:
    cut = [k - s for k, s in zip(case.kernel, case.stride, strict=True)]
    padding = [(total + 1) // 2 if total > 0 else 0 for total in cut]
    more = [2 * pad - total for pad, total in zip(padding, cut, strict=True)]
    if any(extra >= stride for extra, stride in zip(more, case.stride, strict=True)):
        raise NotImplementedError("PyTorch adds no row where the stride is 1")
    return dict(stride=case.stride, padding=padding, output_padding=more, groups=case.groups)


class Torch:
    """The module, set up, and conversions into one memory format."""

    def __init__(self, dtype: str, memory: str, rank: int) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(machine.threads())
        self.gpu = machine.device() == "gpu"
        if machine.device() == "tpu" or (self.gpu and not self.torch.cuda.is_available()):
            raise NotImplementedError(f"PyTorch has no {machine.device()} here")
        self.dtype = getattr(self.torch, dtype)
        self.format = self.torch.contiguous_format
        if memory == "channels-last":
            if rank == 1:
                raise NotImplementedError("PyTorch has no channels-last memory format in 1-D")
            self.format = self.torch.channels_last if rank == 2 else self.torch.channels_last_3d

    def tensor(self, array: Array, **more: Any) -> Any:
        tensor = self.torch.tensor(np.ascontiguousarray(array), dtype=self.dtype, device="cuda" if self.gpu else "cpu")
        return tensor.contiguous(memory_format=self.format) if array.ndim > 2 else tensor

    def image(self, case: Case, image: Array) -> Any:
        return self.tensor(channels_first(_flip(case, image, 1)))

    def kernel(self, case: Case, w: Array) -> Any:
        return self.tensor(io_kernel(_flip(case, w, 0)))

    def read_image(self, case: Case, tensor: Any) -> Array:
        return _flip(case, channels_last(self.read(tensor)), 1)

    def read_kernel(self, case: Case, tensor: Any) -> Array:
        return _flip(case, from_io_kernel(self.read(tensor)), 0)

    def read(self, tensor: Any) -> Array:
        array: Array = tensor.detach().float().cpu().numpy()
        return array

    def step(
        self, function: Callable[[Any, Any], Any], x: Any, w: Any, cotangent: Any, pass_: str
    ) -> Callable[[], Any]:
        """The function of x and w: its value, or for `'train'` its value and both gradients."""
        torch = self.torch

        def forward() -> Any:
            with torch.inference_mode():
                return (function(x, w),)

        def train() -> Any:
            out = function(x, w)
            return (out, *torch.autograd.grad(out, (x, w), cotangent))

        for operand in (x, w):
            operand.requires_grad_(pass_ == "train")
        return self.finished({"forward": forward, "train": train}[pass_])

    def finished(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """The step, waited for: on a GPU it only queues its work."""

        def run() -> Any:
            found = step()
            self.torch.cuda.synchronize()
            return found

        return run if self.gpu else step


def convolution(
    torch: Any,
    x: Any,
    w: Any,
    bias: Any,
    stride: int | Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: int | Sequence[int],
    groups: int,
) -> Any:
    """The ordinary convolution, its image padded beforehand where the two ends differ."""
    if any(low != high for low, high in pads):
        x = torch.nn.functional.pad(x, [pad for ends in reversed(pads) for pad in ends])
        pads = [(0, 0)] * len(pads)
    function = getattr(torch.nn.functional, f"conv{len(pads)}d")
    return function(x, w, bias, stride, [low for low, _ in pads], dilation, groups)


def _flip(case: Case, array: Array, first: int) -> Array:
    return np.flip(array, tuple(first + axis for axis, yes in enumerate(_mirrored(case)) if yes))


def case_entry(memory: str, case: Case, arrays: tuple[Array, Array, Array], dtype: str, pass_: str) -> Entry:
    """One convolution; `memory` is `'channels-last'` or `'contiguous'`."""
    options = _geometry(case)
    peer = Torch(dtype, memory, case.rank)
    x, w, y = peer.image(case, arrays[0]), peer.kernel(case, arrays[1]), peer.image(case, arrays[2])
    function = functools.partial(getattr(peer.torch.nn.functional, f"conv_transpose{case.rank}d"), **options)

    def results(found: Any) -> list[Array]:
        out, *bars = found
        gradients = [peer.read_image(case, bars[0]), peer.read_kernel(case, bars[1])] if bars else []
        return [peer.read_image(case, out), *gradients]

    return Entry(peer.step(function, x, w, y, pass_), results)


def ordinary_entry(memory: str, work: Ordinary, arrays: tuple[Array, Array, Array], dtype: str, pass_: str) -> Entry:
    """One ordinary convolution; `memory` is `'channels-last'` or `'contiguous'`."""
    peer = Torch(dtype, memory, work.rank)
    x, w, y = (
        peer.tensor(own(array)) for own, array in zip((channels_first, io_kernel, channels_first), arrays, strict=True)
    )

    def function(x: Any, w: Any) -> Any:
        return convolution(peer.torch, x, w, None, work.stride, work.pads, work.dilation, work.groups)

    def results(found: Any) -> list[Array]:
        layouts = (channels_last, channels_last, from_io_kernel)
        return [back(peer.read(tensor)) for back, tensor in zip(layouts, found, strict=False)]

    return Entry(peer.step(function, x, w, y, pass_), results)


def stack_entry(memory: str, stack: Stack, arrays: Tensors, dtype: str, pass_: str) -> Entry:
    """The same step as JAX's. All kernels are at least as large as their stride, so the whole network is mirrored."""
    cases = [layer.case for layer in stack.layers]
    peer = Torch(dtype, memory, cases[0].rank)
    torch = peer.torch
    given = Tensors(
        peer.image(cases[0], arrays.x),
        [peer.kernel(case, w) for case, w in zip(cases, arrays.weights, strict=True)],
        [peer.tensor(bias) for bias in arrays.biases],
        [peer.image(cases[0], skip) for skip in arrays.skips],
        peer.image(cases[-1], arrays.target),
    )
    wanted = [given.x, *given.weights, *given.biases]
    for tensor in wanted:
        tensor.requires_grad_()
    functional = torch.nn.functional

    def convolution(case: Case, x: Any, w: Any, bias: Any) -> Any:
        return getattr(functional, f"conv_transpose{case.rank}d")(x, w, bias, **_geometry(case))

    def step() -> Any:
        y = network(stack, given, convolution, functional, functools.partial(torch.cat, dim=1))
        loss = (y.float() - given.target).square().mean()
        return y, torch.autograd.grad(loss, wanted), loss

    def results(found: Any) -> list[Array]:
        y, (x, *bars), _ = found
        weights = [peer.read_kernel(case, w) for case, w in zip(cases, bars, strict=False)]
        images = [peer.read_image(cases[-1], y), peer.read_image(cases[0], x)]
        return [*images, *weights, *map(peer.read, bars[len(cases) :])]

    return Entry(peer.finished(step), results)
