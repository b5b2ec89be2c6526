"""`jax.lax`'s transposed convolutions routed through jdeconv, so that a model need not be edited to train fast."""

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import jax

from . import _settings
from ._arguments import int_pairs
from ._facade.apply import Call, transpose_conv
from ._facade.arrays import precision_now, result_type
from ._facade.lax_arguments import LAX, arrays_and_layout, geometry_of, per_dimension
from ._jax_operations import lax
from .lax import prepare

# What a function of jax.lax does instead; the first argument is the function that it stands for.
Handlers: TypeAlias = Mapping[str, Callable[..., jax.Array]]


def patch() -> "Patch":
    """Routes transposed convolutions of `jax.lax` through jdeconv, so that a model trains fast unedited.

    As a function it takes effect at once, in every thread, until the `restore()` of what it returns. In a `with`
    statement it is for the thread that entered, until the block ends. (The function has been called by then, so what
    another thread traces just between the call and the entry is routed too.) Both nest, in any order, and what is
    returned may be entered again, in its own block or after it.

    The patch is part of the key of `jax.jit`'s cache. A function that was called before is traced and compiled once
    more at its first call under the patch, whatever it computes; without the patch its first program is back.

    A block belongs to the thread that entered it, as the blocks of JAX's own context managers do:
      - A generator that is suspended inside leaves its caller in the block.
      - An `asyncio` task that waits inside leaves the other tasks of the thread in the block.
      - Another thread can't end the block, neither by `restore()` nor by leaving, while the first thread lives.

    What is routed: calls of `jax.lax.conv_transpose`, and those calls of `jax.lax.conv_general_dilated` that are
    transposed convolutions: some `lhs_dilation` above 1, all `window_strides` 1, `batch_group_count` 1, no
    `out_sharding`. Flax's (linen and nnx), Haiku's and, up to 0.13.8, Equinox's layers make such calls. Results are the
    same up to rounding, with the same dtypes and shardings. Calls that jdeconv can't do, or whose arguments don't fit,
    go to `jax.lax` as ever, with its errors.

    What is not reached:
      - A program that the caller holds: what `jax.jit(f).lower(x)`, `jax.export`, `jax.make_jaxpr`, `jax.vjp` or
        `jax.linearize` returned stays what it was when it was traced, before the patch or under it.
      - A module that holds the function itself, by `from jax.lax import conv_transpose` before the patch.
      - Zeros put between the input's pixels by `jax.lax.pad`, as Equinox after 0.13.8 does: what follows is an ordinary
        convolution. Use `jdeconv.equinox` there.
      - A `precision` that is a `jax.lax.DotAlgorithm`, which lax's convolutions ignore.

    What no longer sees a routed call: tools that replace `jax.lax.conv_general_dilated`, such as quantisers (qwix) and
    LoRA providers, and tools that know lax's primitives alone. A routed call, like a call of jdeconv's layers, is one
    primitive of jdeconv, so these tools leave it as it is, without a word. What to do:
      - A layer that such a tool has to change is Flax's own, and is called outside of the patch.
      - A tool that replaces the very function that the model calls begins inside the block of `patch()`. Its function
        then stands before jdeconv's, and what it hands on is routed.
      - A tool that looks for primitives is given `jdeconv.to_lax(f)`.

    Returns: a `Patch`, with `restore()`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, w = jnp.ones((1, 2, 2, 3)), jnp.ones((4, 4, 3, 5))
      >>> up = jax.jit(lambda x, w: jax.lax.conv_transpose(x, w, (2, 2), "SAME"))
      >>> before = up(x, w)
      >>> with patch():
      ...     y = up(x, w)
      ...     "transposed_convolution" in up.lower(x, w).as_text(debug_info=True)
      True
      >>> bool(jnp.allclose(y, before)), "transposed_convolution" in up.lower(x, w).as_text(debug_info=True)
      (True, False)
      >>> undo = patch()
      >>> undo.restore()
    """
    return Patch()


class Patch:
    """One call of `patch`: in effect everywhere, or in the `with` blocks that entered it, until restored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered: list[threading.Thread] = []  # the threads inside a block, once for each block
        self._everywhere = True
        _wrappers.hold(everywhere=True)

    def restore(self) -> None:
        """Ends it everywhere, and in blocks that this thread is still in; does nothing if it has ended."""
        with self._lock:
            self._end_everywhere()
            while self._leave():
                pass

    def __enter__(self) -> "Patch":
        with self._lock:
            _here.enter()
            self._entered.append(threading.current_thread())
            self._end_everywhere()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._leave()

    def _end_everywhere(self) -> None:
        if self._everywhere:
            self._everywhere = False
            _wrappers.release(everywhere=True)

    def _leave(self) -> bool:
        """Leaves a block of this thread, or drops a block of an ended thread; False if there is none."""
        here = threading.current_thread()
        if here in self._entered:
            self._entered.remove(here)
            _here.leave()
            return True
        ended = [thread for thread in self._entered if not thread.is_alive()]
        for thread in ended[:1]:
            self._entered.remove(thread)
            _wrappers.release()
        return bool(ended)


class _Here(threading.local):
    """The blocks that this thread is in. JAX's setting is on while there are any; they may be left in any order."""

    blocks = 0
    on: Any = None

    def enter(self) -> None:
        _wrappers.hold()
        if not self.blocks:
            self.on = _settings.patched(True)
            self.on.__enter__()
        self.blocks += 1

    def leave(self) -> None:
        self.blocks -= 1
        if not self.blocks:
            self.on.__exit__(None, None, None)
        _wrappers.release()


class _Wrappers:
    """In `jax.lax`, while anybody holds them, functions that route their calls where JAX's setting is on.

    They ask the setting alone: what is traced then always agrees with the key under which JAX keeps it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._everywhere = 0  # holders that ask for every thread
        self._put: dict[str, tuple[Any, Any]] = {}  # each wrapper, and what stood in its place

    def hold(self, *, everywhere: bool = False) -> None:
        with self._lock:
            if not self._holders:
                self._put = {name: (_wrapper(name, getattr(jax.lax, name)), getattr(jax.lax, name)) for name in ROUTES}
                for name, (wrapper, _) in self._put.items():
                    setattr(jax.lax, name, wrapper)
            self._holders += 1
            self._everywhere += everywhere
            _settings.patched.set_global(self._everywhere > 0)  # the wrappers are there by now

    def release(self, *, everywhere: bool = False) -> None:
        with self._lock:
            self._everywhere -= everywhere
            _settings.patched.set_global(self._everywhere > 0)  # while the wrappers are there
            self._holders -= 1
            if not self._holders:
                for name, (wrapper, stood) in self._put.items():
                    if getattr(jax.lax, name) is wrapper:  # else somebody wrapped it in turn
                        setattr(jax.lax, name, stood)


def _wrapper(name: str, stood: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    @functools.wraps(stood)
    def call(*arguments: Any, **options: Any) -> jax.Array:
        if _settings.patched.value:
            return ROUTES[name](stood, *arguments, **options)
        return stood(*arguments, **options)

    return call


def _route(function: Callable[..., jax.Array], prepare: Callable[..., Call | None]) -> Callable[..., jax.Array]:
    """A handler of lax's `function`: jdeconv where `prepare` has an answer, else the function that stood there."""
    signature = inspect.signature(function)

    def handle(stood: Callable[..., jax.Array], *arguments: Any, **options: Any) -> jax.Array:
        try:
            given = signature.bind(*arguments, **options)
            call = prepare(**given.arguments)
        except (TypeError, ValueError):
            call = None
        if call is None or not _typed_as_by_lax(call):
            return stood(*arguments, **options)
        return transpose_conv(call)

    return handle


def _dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: Any = 1,
    batch_group_count: Any = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Call | None:
    """`jax.lax.conv_general_dilated`'s arguments, where they ask for a transposed convolution."""
    x, w, layout = arrays_and_layout(lhs, rhs, dimension_numbers, feature_group_count)
    strides = per_dimension("lhs_dilation", lhs_dilation, layout.rank)
    sliding = set(per_dimension("window_strides", window_strides, layout.rank)) == {1}
    if not sliding or set(strides) == {1} or batch_group_count != 1 or out_sharding is not None:
        return None
    dilations = (1,) * layout.rank
    if rhs_dilation is not None:
        dilations = per_dimension("rhs_dilation", rhs_dilation, layout.rank)
    geometry = geometry_of(x, w, layout, strides, dilations, int_pairs(padding, layout.rank, least=None))
    dtype = result_type(LAX, x, w, preferred_element_type, like_lax=True)
    return Call(x, w, layout, geometry, dtype, precision_now(precision), "auto")


def _typed_as_by_lax(call: Call) -> bool:
    """Whether the result would have lax's type: not where it is weak, or where a mesh's axes go by their position."""
    types = [jax.typeof(operand) for operand in (call.x, call.w)]
    explicit = any(kind.sharding.mesh.explicit_axes for kind in types)
    return not all(kind.weak_type for kind in types) and (not explicit or call.layout.input == call.layout.output)


ROUTES: Handlers = {
    "conv_transpose": _route(lax.conv_transpose, prepare),
    "conv_general_dilated": _route(lax.conv_general_dilated, _dilated),
}
_wrappers = _Wrappers()
_here = _Here()
