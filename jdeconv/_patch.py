"""`jax.lax`'s convolutions routed through jdeconv, so that a model need not be edited to train fast."""

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import jax

from . import _settings
from ._arguments import shown
from ._call.apply import Call, convolve
from ._call.lax_calls import call_or_none, prepare, prepare_general
from ._errors import refusal
from ._jax_operations import lax

# What a function of jax.lax does instead; the first argument is the function that it stands for.
Handlers: TypeAlias = Mapping[str, Callable[..., jax.Array]]


TRANSPOSED, EVERY = "transposed", "every"
"""Which convolutions are routed, from less to more."""


def patch(*, only: str | None = None) -> "Patch":
    """Routes the convolutions of `jax.lax` through jdeconv, so that a model trains fast unedited.

    As a function it takes effect at once, in every thread, until the `restore()` of what it returns. In a `with`
    statement it is for the thread that entered, until the block ends. (The function has been called by then, so what
    another thread traces just between the call and the entry is routed too.) Both nest, in any order, and what is
    returned may be entered again, in its own block or after it. Every convolution is routed if one of the blocks asks
    for it. A thread's blocks go before what is in effect in every thread.

    The patch is part of the key of `jax.jit`'s cache. A function that was called before is traced and compiled once
    more at its first call under the patch, whatever it computes; without the patch its first program is back.

    A block belongs to the thread that entered it, as the blocks of JAX's own context managers do:
      - A generator that is suspended inside leaves its caller in the block.
      - An `asyncio` task that waits inside leaves the other tasks of the thread in the block.
      - Another thread can't end the block, neither by `restore()` nor by leaving, while the first thread lives.

    What is routed: calls of `jax.lax.conv_general_dilated`, `conv`, `conv_with_general_padding` and `conv_transpose`.
    Flax's (linen and nnx), Haiku's, Equinox's and Keras's layers make such calls. Results are the same up to rounding,
    with the same dtypes and shardings; where an infinity or NaN in a kernel meets padding, they may be 0 and not NaN.
    Calls that jdeconv can't do (`jdeconv.lax.conv_general_dilated` names them), or whose arguments don't fit, go to
    `jax.lax` as ever, with its errors.

    What is not reached:
      - A program that the caller holds: what `jax.jit(f).lower(x)`, `jax.export`, `jax.make_jaxpr`, `jax.vjp` or
        `jax.linearize` returned stays what it was when it was traced, before the patch or under it.
      - A module that holds the function itself, by `from jax.lax import conv_general_dilated` before the patch. Flax's
        `nnx.Conv` holds it too, and is reached nevertheless.
      - Zeros put between the input's pixels by `jax.lax.pad`, as Equinox after 0.13.8 does in transposed layers: what
        follows is an ordinary convolution of an input with zeros. Use `jdeconv.equinox` there.
      - Functions of JAX that hold the convolution themselves: `jnp.convolve`, `jax.scipy.signal`,
        `jax.lax.conv_general_dilated_patches` and `conv_general_dilated_local`.
      - A `precision` that is a `jax.lax.DotAlgorithm`, which lax's convolutions ignore.

    What no longer sees a routed call: tools that replace `jax.lax.conv_general_dilated`, such as quantisers (qwix) and
    LoRA providers, and tools that know lax's primitives alone. A routed call, like a call of jdeconv's layers, is one
    primitive of jdeconv, so these tools leave it as it is, without a word. What to do:
      - A layer that such a tool has to change is Flax's own, and is called outside of the patch.
      - A tool that replaces the very function that the model calls begins inside the block of `patch()`. Its function
        then stands before jdeconv's, and what it hands on is routed.
      - A tool that looks for primitives is given `jdeconv.to_lax(f)`.

    Args:
      only: None (default) routes every convolution, `'transposed'` those with `lhs_dilation` above 1 and
        `conv_transpose`.

    Returns: a `Patch`, with `restore()`.

    Raises:
      ValueError: another value of `only`.

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
      >>> undo = patch(only="transposed")
      >>> undo.restore()
    """
    if only is not None and (not isinstance(only, str) or only != TRANSPOSED):
        raise refusal(
            ValueError,
            "only",
            shown(only),
            "unknown",
            f"expected None or {TRANSPOSED!r}",
            "Use None, the default, to route every convolution.",
        )
    return Patch(EVERY if only is None else only)


class Patch:
    """One call of `patch`: in effect everywhere, or in the `with` blocks that entered it, until restored."""

    def __init__(self, routed: str) -> None:
        self._routed = routed
        self._lock = threading.Lock()
        self._entered: list[threading.Thread] = []  # the threads inside a block, once for each block
        self._everywhere = True
        _wrappers.hold(everywhere=routed)

    def restore(self) -> None:
        """Ends it everywhere, and in blocks that this thread is still in; does nothing if it has ended."""
        with self._lock:
            self._end_everywhere()
            while self._leave():
                pass

    def __enter__(self) -> "Patch":
        with self._lock:
            _here.enter(self._routed)
            self._entered.append(threading.current_thread())
            self._end_everywhere()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._leave()

    def _end_everywhere(self) -> None:
        if self._everywhere:
            self._everywhere = False
            _wrappers.release(everywhere=self._routed)

    def _leave(self) -> bool:
        """Leaves a block of this thread, or drops a block of an ended thread; False if there is none."""
        here = threading.current_thread()
        if here in self._entered:
            self._entered.remove(here)
            _here.leave(self._routed)
            return True
        ended = [thread for thread in self._entered if not thread.is_alive()]
        for thread in ended[:1]:
            self._entered.remove(thread)
            _wrappers.release()
        return bool(ended)


def _most(routed: Collection[str]) -> str | None:
    """What is routed where several patches are in effect; None if there are none."""
    return next((kind for kind in (EVERY, TRANSPOSED) if kind in routed), None)


class _Here(threading.local):
    """The blocks that this thread is in. JAX's setting is on while there are any; they may be left in any order."""

    on: Any = None

    def __init__(self) -> None:
        self.blocks: list[str] = []

    def enter(self, routed: str) -> None:
        _wrappers.hold()
        self._set([*self.blocks, routed])

    def leave(self, routed: str) -> None:
        left = self.blocks.copy()
        left.remove(routed)
        self._set(left)
        _wrappers.release()

    def _set(self, blocks: list[str]) -> None:
        before, after = _most(self.blocks), _most(blocks)
        self.blocks = blocks
        if before == after:
            return
        if before:
            self.on.__exit__(None, None, None)
        if after:
            self.on = _settings.patched(after)
            self.on.__enter__()


class _Wrappers:
    """In `jax.lax`, while anybody holds them, functions that route their calls where JAX's setting is on.

    They ask the setting alone: what is traced then always agrees with the key under which JAX keeps it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._everywhere: list[str] = []  # what is asked for in every thread
        self._put: dict[str, tuple[Any, Any]] = {}  # each wrapper, and what stood in its place

    def hold(self, *, everywhere: str | None = None) -> None:
        with self._lock:
            if not self._holders:
                self._put = {name: (_wrapper(name, getattr(jax.lax, name)), getattr(jax.lax, name)) for name in ROUTES}
                for name, (wrapper, _) in self._put.items():
                    setattr(jax.lax, name, wrapper)
                if layer := _nnx_layer():
                    layer.conv_general_dilated = _HeldByLayer()
            self._holders += 1
            if everywhere:
                self._everywhere.append(everywhere)
            _settings.patched.set_global(_most(self._everywhere))  # the wrappers are there by now

    def release(self, *, everywhere: str | None = None) -> None:
        with self._lock:
            if everywhere:
                self._everywhere.remove(everywhere)
            _settings.patched.set_global(_most(self._everywhere))  # while the wrappers are there
            self._holders -= 1
            if not self._holders:
                for name, (wrapper, stood) in self._put.items():
                    if getattr(jax.lax, name) is wrapper:  # else somebody wrapped it in turn
                        setattr(jax.lax, name, stood)
                if (layer := _nnx_layer()) and isinstance(vars(layer).get(_HeldByLayer.NAME), _HeldByLayer):
                    del layer.conv_general_dilated


def _nnx_layer() -> Any:
    """`flax.nnx.Conv`, once Flax has been imported."""
    return getattr(sys.modules.get("flax.nnx"), "Conv", None)


class _HeldByLayer:
    """The attribute of `flax.nnx.Conv` that is `jax.lax.conv_general_dilated` of the time when Flax was imported.

    Where it is JAX's own, the layer gets what stands in `jax.lax` now; a caller's own function stays.
    """

    NAME = "conv_general_dilated"

    def __get__(self, layer: Any, kind: type) -> Any:
        if layer is None or self.NAME not in vars(layer):
            raise AttributeError(self.NAME)
        held = vars(layer)[self.NAME]
        own = getattr(held, "__code__", None) is lax.conv_general_dilated.__code__  # the copy has the same code
        return getattr(jax.lax, self.NAME) if own else held

    def __set__(self, layer: Any, value: Any) -> None:
        vars(layer)[self.NAME] = value

    def __delete__(self, layer: Any) -> None:
        del vars(layer)[self.NAME]


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
        except TypeError:
            return stood(*arguments, **options)
        call = call_or_none(prepare, given.arguments)
        if call is None or (call.result != "output" and _settings.patched.value == TRANSPOSED):
            return stood(*arguments, **options)
        return convolve(call)

    return handle


ROUTES: Handlers = {
    "conv_transpose": _route(lax.conv_transpose, prepare),
    "conv_general_dilated": _route(lax.conv_general_dilated, prepare_general),
    "conv": _route(lax.conv, prepare_general),
    "conv_with_general_padding": _route(lax.conv_with_general_padding, prepare_general),
}
_wrappers = _Wrappers()
_here = _Here()
