"""Where and how long jdeconv.patch holds: blocks, threads, tasks, what was traced or compiled before."""

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax import lax
from patching import ORIGINALS, W, X, dilated, program, routed, transposed

import jdeconv

pytestmark = pytest.mark.usefixtures("lax_restored")


def test_with_restores_and_nests():
    with jdeconv.patch():
        with jdeconv.patch():
            assert routed(transposed, X, W)
        assert routed(transposed, X, W)
        assert routed(dilated, X, W)
    assert not routed(transposed, X, W)
    with pytest.raises(KeyError), jdeconv.patch():
        raise KeyError
    assert not routed(dilated, X, W)


def test_one_object_nests_and_is_entered_again():
    patch = jdeconv.patch()
    with patch:
        with patch:
            assert routed(transposed, X, W)
        assert routed(transposed, X, W)
    assert not routed(transposed, X, W)
    with patch, patch:
        patch.restore()  # of all blocks
        assert not routed(transposed, X, W)
    with patch:
        assert routed(transposed, X, W)
    assert not routed(transposed, X, W)


def test_one_object_in_two_threads_and_left_in_a_third():
    """Whoever leaves ends their own block."""
    patch = jdeconv.patch()

    def briefly():
        with patch:
            return routed(transposed, X, W)

    with patch:
        assert in_thread(briefly)
        assert routed(transposed, X, W)
        assert not in_thread(lambda: routed(transposed, X, W))
    in_thread(patch.__enter__)
    patch.__exit__(None, None, None)


def test_the_function_lasts_until_restored():
    """Whether or not what it returns is kept, and in whatever order several are restored."""
    first, second = jdeconv.patch(), jdeconv.patch()
    gc.collect()
    with jdeconv.patch():
        first.restore()
    assert routed(transposed, X, W)
    first.restore()  # a second time does nothing
    assert routed(transposed, X, W)
    second.restore()
    assert not routed(transposed, X, W)
    jdeconv.patch()
    gc.collect()
    assert routed(transposed, X, W)
    jdeconv._patch._wrappers.release(everywhere="every")  # nobody has the object that would


def test_restored_within_its_block():
    with jdeconv.patch() as patch:
        patch.restore()
        assert not routed(transposed, X, W)
    assert not routed(transposed, X, W)


@jax.custom_vjp
def with_own_gradient(x, w):
    return transposed(x, w)


with_own_gradient.defvjp(lambda x, w: (transposed(x, w), (x, w)), lambda saved, y: jax.vjp(transposed, *saved)[1](y))

# Each is traced once for a type of its operands, by JAX's caches of one kind or another.
TRACED_BEFORE = {
    "jit": jax.jit(transposed),
    "jit within jit": jax.jit(lambda x, w: jax.jit(transposed)(x, w)),
    "gradient": jax.grad(jax.jit(lambda x, w: transposed(x, w).sum())),
    "vmap": jax.jit(jax.vmap(lambda x, w: transposed(x[None], w), (0, None))),
    "scan": lambda x, w: lax.scan(lambda carry, _: (carry, transposed(x, w)), 0, length=2),
    "cond": lambda x, w: lax.cond(x.sum() > 0, transposed, lambda x, w: 2 * transposed(x, w), x, w),
    "while": lambda x, w: lax.fori_loop(0, 2, lambda _, x: transposed(x, w)[:, :5, :6, :4], x),
    "checkpoint": jax.checkpoint(transposed),
    "custom gradient": jax.grad(lambda x, w: with_own_gradient(x, w).sum()),
}


@pytest.mark.parametrize("name", TRACED_BEFORE)
def test_a_function_that_was_traced_before_is_traced_anew(name):
    f = TRACED_BEFORE[name]
    assert not routed(f, X, W)
    with jdeconv.patch():
        assert routed(f, X, W)
    assert not routed(f, X, W)
    undo = jdeconv.patch()
    assert routed(f, X, W)
    assert in_thread(lambda: routed(f, X, W))
    undo.restore()
    assert not routed(f, X, W)


@pytest.mark.parametrize("outer", [jax.jit, lambda f: f], ids=["traced", "eager"])
def test_what_runs_follows_the_patch_and_is_compiled_once_for_each(outer):
    traced = []

    def f(x, w):
        traced.append(jdeconv._settings.patched.value)
        return transposed(x, w)

    inner = jax.jit(f)
    call = outer(lambda x, w: inner(x, w))
    for _ in range(3):
        call(X, W)
        with jdeconv.patch():
            call(X, W)
            with jdeconv.patch():
                call(X, W)
        undo = jdeconv.patch()
        call(X, W)
        undo.restore()
    assert traced == [None, "every"]
    assert "transposed_convolution" not in names_of_operations(inner)
    with jdeconv.patch():
        assert "transposed_convolution" in names_of_operations(inner)


def names_of_operations(jitted):
    return jitted.lower(X, W).as_text(debug_info=True)


def test_what_the_caller_holds_stays_as_it_was():
    f = jax.jit(lambda x, w: transposed(x, w))
    export = lambda: jax.export.export(f)(X, W).mlir_module_serialized  # noqa: E731
    compiled, exported, (y, pull) = f.lower(X, W).compile(), export(), jax.vjp(f, X, W)
    with jdeconv.patch():
        np.testing.assert_array_equal(compiled(X, W), y)  # the same bits
        assert not routed(pull, y)
        assert routed(f, X, W)
        under = export()
        assert under != exported
    assert export() == exported
    with jdeconv.patch():
        assert export() == under


def test_without_jit_and_by_shape_alone():
    f = jax.jit(lambda x, w: transposed(x, w))
    shape = jax.eval_shape(f, X, W)
    with jdeconv.patch():
        assert jax.eval_shape(f, X, W) == shape
        with jax.disable_jit():
            y = f(X, W)
    assert (y.shape, y.dtype) == (shape.shape, shape.dtype)


def test_a_block_within_a_traced_function_is_for_what_it_holds():
    inner = jax.jit(lambda x, w: transposed(x, w))

    @jax.jit
    def f(x, w):
        before = inner(x, w)
        with jdeconv.patch():
            y = inner(x, w)
        return before, y, inner(x, w)

    for _ in range(2):  # traced, and found again
        text = program(f, X, W)
        assert text.count("conv_general_dilated[") == 1  # of `inner`, called twice
        assert text.count("transposed_convolution[") == 1
        assert not routed(inner, X, W)


def test_a_name_taken_before_is_not_reached():
    with jdeconv.patch():
        assert not routed(lambda x, w: ORIGINALS["conv_transpose"](x, w, (2, 2), "SAME"), X, W)


def test_another_wrapper_survives():
    """A wrapper around the patched function stays in place; the patch below it does nothing any more."""
    with jdeconv.patch():
        inner = lax.conv_transpose
        lax.conv_transpose = outer = lambda *arguments, **options: inner(*arguments, **options)
    assert lax.conv_transpose is outer
    assert not routed(transposed, X, W)
    with jdeconv.patch():
        assert routed(transposed, X, W)
    assert lax.conv_transpose is outer
    lax.conv_transpose = ORIGINALS["conv_transpose"]


def in_thread(f):
    found = []
    thread = threading.Thread(target=lambda: found.append(f()))
    thread.start()
    thread.join()
    return found[0]


def test_with_is_for_its_thread_and_the_function_for_all():
    def seen():
        return routed(transposed, X, W)

    with jdeconv.patch():
        assert seen()
        assert not in_thread(seen)
    undo = in_thread(jdeconv.patch)
    assert seen()
    assert in_thread(seen)
    with undo:  # from now on, here alone; so is one that is called and entered in a line
        assert seen()
        assert not in_thread(seen)
    assert not seen()


def test_tasks_of_a_thread_share_a_block():
    """Whichever leaves first; what the thread compiles under the patch is never taken for what it compiles without."""
    f = jax.jit(lambda x, w: transposed(x, w))
    inside = []

    async def task(turns):
        with jdeconv.patch():
            inside.append(turns)
            for _ in range(turns):
                await asyncio.sleep(0)
                assert routed(f, X, W)
            inside.remove(turns)

    async def other():
        for _ in range(6):
            assert routed(f, X, W) == bool(inside)
            await asyncio.sleep(0)

    async def together():
        await asyncio.gather(other(), task(3), task(1), task(4))

    asyncio.run(together())
    assert not routed(f, X, W)


def test_a_generator_that_is_suspended_inside():
    f = jax.jit(lambda x, w: transposed(x, w))

    def suspended():
        with jdeconv.patch():
            yield routed(f, X, W)

    one, other = suspended(), suspended()
    assert next(one)
    assert next(other)
    one.close()
    assert routed(f, X, W)
    other.close()
    assert not routed(f, X, W)


def test_a_block_ends_in_its_own_thread():
    f = jax.jit(lambda x, w: transposed(x, w))
    patch = jdeconv.patch()
    with patch:
        in_thread(patch.restore)
        in_thread(lambda: patch.__exit__(None, None, None))
        assert routed(f, X, W)
        assert not in_thread(lambda: routed(f, X, W))
    assert not routed(f, X, W)


def test_a_block_of_a_thread_that_has_ended_is_forgotten():
    patch = jdeconv.patch()
    for _ in range(3):
        in_thread(patch.__enter__)
    patch.__exit__(None, None, None)
    assert lax.conv_transpose is not ORIGINALS["conv_transpose"]  # two are left
    patch.restore()
    assert lax.conv_transpose is ORIGINALS["conv_transpose"]


def test_interceptors():
    """As the docstring says: one that begins before the patch sees nothing, one that begins inside sees each call."""
    seen = []

    def interceptor(stood):
        return lambda *arguments, **options: seen.append(1) or stood(*arguments, **options)

    with pytest.MonkeyPatch.context() as tool:
        tool.setattr(lax, "conv_general_dilated", interceptor(lax.conv_general_dilated))
        with jdeconv.patch():
            assert routed(lambda x, w: dilated(x, w), X, W)
    assert seen == []
    with jdeconv.patch(), pytest.MonkeyPatch.context() as tool:
        tool.setattr(lax, "conv_general_dilated", interceptor(lax.conv_general_dilated))
        assert routed(lambda x, w: dilated(x, w), X, W)
    assert seen == [1]


def test_many_threads_enter_and_leave():
    threads = 8
    failures, in_step = [], threading.Barrier(threads, timeout=60)

    def work(number):
        for turn in range(20):
            with contextlib.ExitStack() as stack:
                patched = bool((number + turn) % 2)
                if patched:
                    stack.enter_context(jdeconv.patch())
                in_step.wait()  # until everyone has entered, calls to do so hold everywhere
                if routed(transposed, X, W) != patched:
                    failures.append((number, turn))
                in_step.wait()

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()
    assert failures == []
