"""Convolutions by the oneDNN that jaxlib holds on x86-64 Linux CPUs, as XLA custom calls.

`conv` takes what `lax.conv_general_dilated` takes, which it calls wherever `refuses_conv` has a reason. A call that
oneDNN can't do raises nothing: it ends the process. So only what is known to work is called: what `evidence` has a row
for, of this version of jaxlib and the instruction set that oneDNN takes here, after a probe at the first use. The calls
belong below a primitive's lowering: they have no derivatives, the SPMD partitioner can't split them, and a program with
them can be neither exported nor stored.
"""

import functools
import itertools
import json
import math
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jaxlib import version

from .. import _settings
from .._errors import blames_caller
from .._geometry import extent
from .._jax_operations import lax
from .._onednn_switch import ADJECTIVES, read_switch, switched_off
from . import evidence

# XLA's interface for the calls is experimental. What is called is what `evidence` has a row for: random calls of 1 to
# 3 dimensions, all within (terms + 1) * eps * sum(abs(terms)) of float64. Operands were also transposes, slices,
# reversals; windows exceeded images, pads exceeded windows. Matrix products are never called: in oneDNN 3.7 (jaxlib
# 0.10) they can run parallel loops within parallel loops, where XLA's threads wait for each other forever, or crash.

# These variables change what oneDNN computes, so with any of them set it is not called.
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")

# A float32 result satisfies each of these. Named algorithms are left to XLA.
PRECISIONS = (None, "default", "high", "highest")

# With more taps in a row AMX is up to 100 times slower: 32 channels, 300 taps: 1.4 ms, 400 taps: 280.
LONGEST_ROW = 256

LARGEST = 2**29  # elements: offsets beyond 31 bits are unproven


@blames_caller
def use_onednn(enabled: bool | str) -> None:
    """Switches calls of jaxlib's own oneDNN on or off, or some of them off, in every thread, from the next call on.

    The switch is part of `jax.jit`'s cache key: functions compiled before are traced and compiled once more, and
    switching back finds the first programs again. A program that the caller has compiled
    (`jax.jit(f).lower(x).compile()`) stays as it is.

    On x86-64 Linux CPUs it is called for convolutions that the tests have proven, on versions of jaxlib and instruction
    sets of processors for which there is evidence. On another version of jaxlib a `UserWarning` says so once. It is not
    called in programs that are exported or that XLA partitions by itself (the page "Many devices"), nor while
    `jax_compilation_cache_dir` is set, as programs that call it can't be stored. Results differ by rounding.

    Args:
      enabled: True (the default of a process), False, or a string, as the variable `JDECONV_ONEDNN` has it in the
        environment before jdeconv is imported: '1', '0', or 'off:' and what is not to be called, in the words grouped,
        strided, dilated, convolution, float32 and bfloat16. All words of an entry must apply: 'off:grouped,bfloat16
        strided' leaves to XLA what has groups, and what has strides in bfloat16. An entry with 'convolution' is that
        class alone: 'off:strided convolution' keeps oneDNN for strided ones with groups. bfloat16 that is switched off
        is widened to float32.

    Raises:
      ValueError: an unknown string or word.
      TypeError: neither a bool nor a string.

    Example:
      >>> use_onednn(False)
      >>> unavailable()
      'switched off by use_onednn(False) or JDECONV_ONEDNN=0'
      >>> use_onednn("off:grouped,bfloat16 strided")
      >>> use_onednn(True)

    Semantics: jdeconv's own. TensorFlow has no such function, only the variable `TF_ENABLE_ONEDNN_OPTS`.
    """
    _settings.onednn.set_global(read_switch("enabled", enabled))


# Whether oneDNN may be called; cheap checks first.


def unavailable(dtype: str = "float32", kind: str | None = None) -> str | None:
    """None if programs compiled now, for this process's CPU, may make calls in this type (of this class); else why."""
    return kept_off() or _unproven(dtype, kind) or _probe(dtype)


def kept_off() -> str | None:
    """What keeps all calls off on any version of jaxlib and any processor."""
    if not _settings.onednn.value:
        return "switched off by use_onednn(False) or JDECONV_ONEDNN=0"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"{platform.system()} on {platform.machine()}; expected Linux on x86_64"
    if changed := [name for name in VARIABLES if name in os.environ]:
        return f"{changed[0]} is set; oneDNN is tested without"
    # XLA can't serialize these programs: the cache would warn at each compilation and never hold them.
    if jax.config.jax_compilation_cache_dir and jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return "jax_compilation_cache_dir is set, and programs that call oneDNN can't be stored"
    return None


def _unproven(dtype: str, kind: str | None) -> str | None:
    """Why no calls in this type, or of this class, are both proven and not switched off."""
    jaxlib = version.__version__
    try:
        proven = evidence.proven()
    except Exception as error:  # lost or damaged, as where a program was packed without data: `lax` computes all
        return f"the table of evidence can't be read: {type(error).__name__}: {error}"
    if all(jaxlib != tested for tested, _, _ in proven):
        return f"jaxlib {jaxlib}; tested: {', '.join(evidence.versions())}"
    isa = evidence.instruction_set(dtype)
    if isa is None:
        return f"a processor without {[*evidence.INSTRUCTIONS[dtype]][-1]}"
    classes = proven.get((jaxlib, isa, dtype), frozenset())
    if not classes:
        return f"{dtype} by {isa} is unproven on jaxlib {jaxlib}"
    if kind is not None and kind not in classes:
        return f"a {kind} in {dtype} by {isa} is unproven"
    switch = _settings.onednn.value
    off = [switched_off(switch, dtype, each) for each in ([kind] if kind else classes)]
    if all(off):
        what = f"a {kind} in {dtype}" if kind else dtype
        return f"{what} is switched off by 'off:{off[0]}' (use_onednn or JDECONV_ONEDNN)"
    return None


def computes_in(dtype: str) -> bool:
    """Whether some calls in this type are proven on this processor and not switched off."""
    return _unproven(dtype, None) is None


def has_amx() -> bool:
    """Whether oneDNN multiplies bfloat16 by AMX's tiles."""
    return evidence.instruction_set("bfloat16") == "amx"


_lock = threading.Lock()


def _probe(dtype: str) -> str | None:
    """None if, at the first use, a small call of each class in this type equalled `lax`; else what differed."""
    isa, switch = evidence.instruction_set(dtype), _settings.onednn.value
    classes = evidence.proven()[version.__version__, str(isa), dtype]
    # What is switched off may be faulty: the probe doesn't call it either.
    on = frozenset(kind for kind in classes if not switched_off(switch, dtype, kind))
    with _lock:
        return _probed(dtype, on)


@functools.lru_cache(maxsize=64)
def _probed(dtype: str, classes: frozenset[str]) -> str | None:
    # A new thread has none of the caller's trace, mesh and settings: the caller may be lowering another program.
    try:
        with futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(_differs, dtype, classes).result()
    except Exception as error:  # whatever it is, `lax` computes everything
        return f"the probe raised {type(error).__name__}: {error}"


def _differs(dtype: str, classes: frozenset[str]) -> str | None:
    """The first class whose example differs from `lax`. Small integers: sums are exact in every order."""
    examples = list(_examples(classes))
    operands = [
        [(np.arange(math.prod(shape)) % 7 - 3).reshape(shape).astype(dtype) for shape in shapes]
        for _, shapes, _ in examples
    ]

    def both(operands: Any) -> list[Any]:
        pairs = zip(examples, operands, strict=True)
        return [(_conv(*x, **given), lax.conv_general_dilated(*x, **given)) for (*_, given), x in pairs]

    device = jax.local_devices(backend="cpu")[0]
    with jax.default_device(device), jax.disable_jit(False), jax.transfer_guard("allow"):
        results = jax.device_get(jax.jit(both)(operands))
    for (kind, *_), (ours, theirs) in zip(examples, results, strict=True):
        if not np.array_equal(ours, theirs):
            return f"the probe's {kind} in {dtype} differs from that of lax"
    return None


def _examples(classes: frozenset[str]) -> Iterator[tuple[Any, ...]]:
    """Kind, shapes and arguments of a call of each of these classes."""
    for kind in sorted(classes):
        groups, stride, dilation = (1 + (word in kind) for word in ADJECTIVES)
        given = dict(
            window_strides=(stride,) * 2,
            padding=((1, 0), (0, 1)),
            rhs_dilation=(dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        yield kind, ((1, 5, 5, 8), (3, 3, 8 // groups, 8)), given


# Convolutions.


def conv(
    lhs: jax.Array,
    rhs: jax.Array,
    otherwise: Callable[..., jax.Array] = lax.conv_general_dilated,
    **arguments: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, by oneDNN; where `refuses_conv` has a reason, by `otherwise`."""
    compute = otherwise if refuses_conv(lhs, rhs, **arguments) else _conv
    return compute(lhs, rhs, **arguments)


def refuses_conv(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> str | None:
    """Why oneDNN can't run this call of `lax.conv_general_dilated`; None if it can."""
    if isinstance(padding, str) or not all(isinstance(pad, int) and pad >= 0 for pads in padding for pad in pads):
        return f"padding={padding!r}; expected pairs of 0 and more"
    if batch_group_count != 1 or any(dilation != 1 for dilation in lhs_dilation or ()):
        return f"lhs_dilation={lhs_dilation}, batch_group_count={batch_group_count}; expected none"
    if not 3 <= lhs.ndim <= 5:
        return f"{lhs.ndim - 2} spatial dimensions; expected 1 to 3"
    kind = _kind(max(window_strides), max(rhs_dilation or (1,)), feature_group_count)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    # oneDNN 3.7 computes some of these by parallel loops within parallel loops, 3.12 by slow reference loops.
    if feature_group_count > 1 and rhs.shape[numbers.rhs_spec[1]] == 1:
        return "one input channel a group"
    if reason := _refuses(kind, lhs, rhs, precision, preferred_element_type):
        return reason
    sizes = _sizes(lhs, rhs, numbers, window_strides, padding, rhs_dilation)
    if any(size == 1 < stride for size, stride in zip(sizes[1:-1], window_strides, strict=True)):
        return "a single position in a strided dimension"  # AVX-512's kernels read beyond the image there
    taps = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
    windows = [extent(k, d) for k, d in zip(taps, rhs_dilation or (1,) * len(taps), strict=True)]
    if any(window < stride for window, stride in zip(windows, window_strides, strict=True)):
        return "a stride beyond the kernel"  # AVX-512's kernels write beyond their copy of the image there
    images = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
    # oneDNN 3.11 and later make these a matrix product, which is wrong with a vector (one output channel).
    if images == taps and math.prod(taps) > 1 and not any(map(any, padding)):
        return "a window that is the image"
    if len(taps) == 2 and images[-1] == taps[-1] == 1:  # they read beyond the image: 9 of 640 calls
        return "an image of one column"
    if lhs.dtype == "bfloat16":
        channels = _paired(rhs.shape[numbers.rhs_spec[1]])
        if reason := _bfloat16_refuses(images, padding, windows, taps[-1], channels):
            return reason
    return _size_refused(sizes)


def _bfloat16_refuses(
    images: Sequence[int], padding: Any, windows: Sequence[int], taps: int, channels: int
) -> str | None:
    """Sizes of `windows` include the gaps between taps; a row of the window has `taps` taps of `channels` each."""
    if any(size < window or max(pads) >= window for size, window, pads in zip(images, windows, padding, strict=True)):
        return "a window that may lie beyond the image"  # undefined results, segmentation faults: 8 of 750 calls
    if windows[-1] == taps and channels < 16 and taps * channels > 32:
        return "few input channels in long rows"  # wrong where they are a multiple of 32: 4 of 2500 calls
    if taps * -(-channels // 32) > LONGEST_ROW:
        return f"more than {LONGEST_ROW} products of 32 in a row of the window"
    return None


def _kind(stride: int, dilation: int, groups: int) -> str:
    large = (value > 1 for value in (groups, stride, dilation))
    return " ".join([*itertools.compress(ADJECTIVES, large), "convolution"])


def _sizes(lhs: jax.Array, rhs: jax.Array, numbers: Any, strides: Any, padding: Any, dilation: Any) -> tuple[int, ...]:
    """The result's shape, in the order batch, spatial dimensions, channels."""
    inputs = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
    kernel = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
    spatial = (
        (size + sum(pads) - extent(taps, apart)) // stride + 1
        for size, taps, stride, pads, apart in zip(
            inputs, kernel, strides, padding, dilation or (1,) * len(kernel), strict=True
        )
    )
    return lhs.shape[numbers.lhs_spec[0]], *(max(size, 0) for size in spatial), rhs.shape[numbers.rhs_spec[0]]


def _conv(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    window_strides: Sequence[int],
    padding: Any,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    preferred_element_type: Any = None,
    **_: Any,
) -> jax.Array:
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    sizes = _sizes(lhs, rhs, numbers, window_strides, padding, rhs_dilation)
    if lhs.dtype == "bfloat16":
        lhs, rhs = _in_pairs(lhs, numbers.lhs_spec[1]), _in_pairs(rhs, numbers.rhs_spec[1])
    # The kernel may have any layout: oneDNN packs it anyway. Images in another layout would take slow reference loops.
    images = dict(batch_dim="0", feature_dim=str(lhs.ndim - 1), spatial_dims=_strings(range(1, lhs.ndim - 1)))
    config = dict(
        dims=str(lhs.ndim),
        feature_groups=str(feature_group_count),
        input=dict(data=images),
        kernel=dict(
            filter=dict(
                output_feature_dim=str(numbers.rhs_spec[0]),
                input_feature_dim=str(numbers.rhs_spec[1]),
                spatial_dims=_strings(numbers.rhs_spec[2:]),
                shape=_strings(rhs.shape),
            )
        ),
        output=dict(data=images),
        window=dict(
            strides=_strings(window_strides),
            pad_left=_strings(low for low, _ in padding),
            pad_right=_strings(high for _, high in padding),
            window_dilations=_strings(rhs_dilation or (1,) * (lhs.ndim - 2)),
        ),
    )
    shape = jax.ShapeDtypeStruct(sizes, preferred_element_type or lhs.dtype)
    result = _call(config, lax.transpose(lhs, _last(numbers.lhs_spec)), rhs, shape)
    return lax.transpose(result, np.argsort(_last(numbers.out_spec)))


def _paired(channels: int) -> int:
    """How many input channels oneDNN is given in bfloat16: an odd number gets one more, of zeros.

    AVX-512 multiplies pairs of bfloat16. A single last channel would be paired with the next position's first channel,
    or with what lies beyond the array, times zero: undefined where that is infinite.
    """
    return channels + channels % 2


def _in_pairs(x: jax.Array, axis: int) -> jax.Array:
    more = _paired(x.shape[axis]) - x.shape[axis]
    return lax.pad(x, x.dtype.type(0), [(0, more * (a == axis), 0) for a in range(x.ndim)]) if more else x


def _last(spec: Sequence[int]) -> tuple[int, ...]:
    """The axes in the order batch, spatial dimensions, channels, from a specification with channels second."""
    return spec[0], *spec[2:], spec[1]


def _refuses(kind: str, lhs: jax.Array, rhs: jax.Array, precision: Any, preferred: Any) -> str | None:
    """Why calls of this kind on these operands can't be made; the costly check, the probe, comes last."""
    types = {lhs.dtype.name, rhs.dtype.name, np.dtype(preferred or lhs.dtype).name}
    one_type = len(types) == 1 or (types == {"bfloat16", "float32"} and lhs.dtype == rhs.dtype == "bfloat16")
    if not one_type or lhs.dtype.name not in evidence.INSTRUCTIONS:
        return f"a {kind} in {' and '.join(sorted(types))} is unproven"
    if not all(isinstance(p, lax.Precision) or p in PRECISIONS for p in np.ravel(precision)):
        return f"precision={precision}; expected one of {PRECISIONS}"
    return _size_refused(lhs.shape) or _size_refused(rhs.shape) or unavailable(lhs.dtype.name, kind)


def _size_refused(shape: Sequence[Any]) -> str | None:
    if all(isinstance(size, int) for size in shape) and 0 < math.prod(shape) < LARGEST:
        return None
    return f"an operand or result of {tuple(shape)}; expected known sizes, none of them 0, and below {LARGEST} elements"


def _call(config: dict[str, Any], lhs: jax.Array, rhs: jax.Array, result: jax.ShapeDtypeStruct) -> jax.Array:
    """The custom call, row-major throughout. Its one result is the output: oneDNN allocates its own working memory."""
    settings = json.dumps({"onednn_conv_config": {**config, "optimization_config": {"user_scratchpad": False}}})
    call = jax.ffi.ffi_call("__onednn$convolution", result, custom_call_api_version=2, legacy_backend_config=settings)
    return call(lhs, rhs)


def _strings(values: Iterable[int]) -> list[str]:
    """Integers as strings, which JSON for protocol buffers uses for 64-bit ones."""
    return [str(int(value)) for value in values]
