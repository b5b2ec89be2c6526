"""`jax.lax`'s transposed convolutions routed through jdeconv, so that a model need not be edited to train fast."""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeAlias

import jax
from jax import lax

from ._arguments import int_pairs
from ._dilated import Operands, geometry_of, lax_result_type, operands, steps
from ._operands import precision_now
from .lax import prepare

# What a function of jax.lax does instead; the first argument is the function that it stands for.
Handlers: TypeAlias = Mapping[str, Callable[..., jax.Array]]


def patch() -> "Patch":
    """Routes transposed convolutions of `jax.lax` through jdeconv, so that a model trains fast unedited.

    As a function it takes effect at once, in every thread, until the `restore()` of what it returns. In a `with`
    statement it is for the thread (or `asyncio` task) that entered, as JAX's own context managers are, until the block
    ends; a generator that is suspended inside leaves its caller in it. (The function has been called by then, so what
    another thread traces just between the call and the entry is routed too.) Both nest, in any order, and what is
    returned may be entered again, in its own block or after it.

    What is routed: calls of `jax.lax.conv_transpose`, and those calls of `jax.lax.conv_general_dilated` that are
    transposed convolutions: some `lhs_dilation` above 1, all `window_strides` 1, `batch_group_count` 1, no
    `out_sharding`. Flax's (linen and nnx), Haiku's and, up to 0.13.8, Equinox's layers make such calls. Results are the
    same up to rounding, with the same dtypes and shardings; calls that jdeconv can't do, or whose arguments don't fit,
    go to `jax.lax` as ever, and so their errors are its own.

    What is not reached:
      - A function that has been traced (`jax.jit` and its kin keep what they traced): it stays what it was when it was
        traced, before the patch or under it. So patch before the first call.
      - A module that holds the function itself, by `from jax.lax import conv_transpose` before the patch.
      - Zeros put between the input's pixels by `jax.lax.pad`, as Equinox after 0.13.8 does: what follows is an ordinary
        convolution. Use `jdeconv.equinox` there.
      - A `precision` that is a `jax.lax.DotAlgorithm`, which lax's convolutions ignore.

    Returns: a `Patch`, with `restore()`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, w = jnp.ones((1, 2, 2, 3)), jnp.ones((4, 4, 3, 5))
      >>> with patch():
      ...     y = jax.lax.conv_transpose(x, w, (2, 2), "SAME")
      >>> bool(jnp.allclose(y, jax.lax.conv_transpose(x, w, (2, 2), "SAME")))
      True
      >>> undo = patch()
      >>> undo.restore()
    """
    return Patch()


class Patch:
    """One call of `patch`: in effect everywhere, or in the `with` blocks that it was given to, until restored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[_Block] = []  # entered and not left
        self._everywhere = contextlib.ExitStack()
        _wrappers.hold(everywhere=True)
        self._everywhere.callback(_wrappers.release, everywhere=True)

    def restore(self) -> None:
        """Ends it, also in blocks that are not left yet; nothing happens if it has ended."""
        with self._lock:
            self._everywhere.close()
            while self._blocks:
                self._blocks.pop().end()

    def __enter__(self) -> "Patch":
        with self._lock:
            self._blocks.append(_Block(ROUTES))
            self._everywhere.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            here = [block for block in _here.get() if block in self._blocks]
            if candidates := here or self._blocks:  # left in a thread or task where none was entered: any
                left = candidates[-1]
                self._blocks.remove(left)
                left.end()


@contextlib.contextmanager
def handling(handlers: Handlers) -> Iterator[None]:
    """In this thread or task, `handlers` instead of the functions of `jax.lax` that they are named for."""
    block = _Block(handlers)
    try:
        yield
    finally:
        block.end()


class _Block:
    """In effect in the thread or task that made it, until it ends, be it elsewhere."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.ended = False
        _wrappers.hold()
        _here.set((*_here.get(), self))

    def end(self) -> None:
        self.ended = True  # where it was made, too, if that was in another thread or task
        _here.set(tuple(other for other in _here.get() if not other.ended))
        _wrappers.release()


_here: ContextVar[tuple[_Block, ...]] = ContextVar("jdeconv_patch", default=())


class _Wrappers:
    """In `jax.lax`, while anybody holds them, functions that look up who handles the call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._put: dict[str, tuple[Any, Any]] = {}  # each wrapper, and what stood in its place
        self.everywhere = 0
        """How many holders ask for `ROUTES` in every thread."""

    def hold(self, everywhere: bool = False) -> None:
        with self._lock:
            if not self._holders:
                self._put = {name: (_wrapper(name, getattr(lax, name)), getattr(lax, name)) for name in ROUTES}
                for name, (wrapper, _) in self._put.items():
                    setattr(lax, name, wrapper)
            self._holders += 1
            self.everywhere += everywhere

    def release(self, everywhere: bool = False) -> None:
        with self._lock:
            self._holders -= 1
            self.everywhere -= everywhere
            if not self._holders:
                for name, (wrapper, stood) in self._put.items():
                    if getattr(lax, name) is wrapper:  # else somebody wrapped it in turn
                        setattr(lax, name, stood)


def _wrapper(name: str, stood: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    @functools.wraps(stood)
    def call(*arguments: Any, **options: Any) -> jax.Array:
        if here := [block for block in _here.get() if not block.ended]:
            return here[-1].handlers.get(name, _unhandled)(stood, *arguments, **options)
        return (ROUTES[name] if _wrappers.everywhere else _unhandled)(stood, *arguments, **options)

    return call


def _unhandled(stood: Callable[..., jax.Array], *arguments: Any, **options: Any) -> jax.Array:
    return stood(*arguments, **options)


def _route(prepared: Callable[..., tuple[Operands, dict[str, Any]] | None]) -> Callable[..., jax.Array]:
    """A handler: what `prepared` makes of the call, or the function itself where it refuses or returns None."""

    def handle(stood: Callable[..., jax.Array], *arguments: Any, **options: Any) -> jax.Array:
        try:
            given = inspect.signature(stood).bind(*arguments, **options)
            found = prepared(**given.arguments)
        except (TypeError, ValueError):
            found = None
        if found is None or not _typed_as_by_lax(found[0]):
            return stood(*arguments, **options)
        both, parameters = found
        return both.convolve(**parameters)

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
) -> tuple[Operands, dict[str, Any]] | None:
    """`jax.lax.conv_general_dilated`'s arguments, where they ask for a transposed convolution."""
    both = operands(lhs, rhs, dimension_numbers, feature_group_count)
    strides = steps("lhs_dilation", lhs_dilation, both.rank)
    sliding = set(steps("window_strides", window_strides, both.rank)) == {1}
    if not sliding or set(strides) == {1} or batch_group_count != 1 or out_sharding is not None:
        return None
    dilations = (1,) * both.rank if rhs_dilation is None else steps("rhs_dilation", rhs_dilation, both.rank)
    return both, dict(
        geometry=geometry_of(both, strides, dilations, int_pairs(padding, both.rank, least=None)),
        dtype=lax_result_type(both, preferred_element_type),
        precision=precision_now(precision),
        method="auto",
    )


def _typed_as_by_lax(both: Operands) -> bool:
    """Whether the result would have lax's type: not where it is weak, or where a mesh's axes go by their position."""
    types = [jax.typeof(operand) for operand in (both.lhs, both.rhs)]
    explicit = any(kind.sharding.mesh.explicit_axes for kind in types)
    return not all(kind.weak_type for kind in types) and (
        not explicit or both.numbers.lhs_spec == both.numbers.out_spec
    )


ROUTES: Handlers = {"conv_transpose": _route(prepare), "conv_general_dilated": _route(_dilated)}
_wrappers = _Wrappers()
