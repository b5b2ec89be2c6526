"""jdeconv.patch: what is routed and what is not, with lax's results, types and errors; restored, nested, in threads."""

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from hypothesis import given
from jax import lax
from lax_calls import calls
from peers import needs, peer
from quick import jit, with_gradients

import jdeconv

linen, nnx, haiku, equinox = peer("flax.linen"), peer("flax.nnx"), peer("haiku"), peer("equinox")
ORIGINALS = {name: getattr(lax, name) for name in ("conv_transpose", "conv_general_dilated")}
X, W = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 5, 6, 4), (3, 3, 4, 6)))


@pytest.fixture(autouse=True)
def restored():
    """After every test everything is as it was."""
    yield
    assert {name: getattr(lax, name) for name in ORIGINALS} == ORIGINALS


def program(f, *operands):
    return str(jax.make_jaxpr(f)(*operands))


def routed(f, *operands):
    """Whether the program has jdeconv's operator and no convolution of lax's."""
    text = program(f, *operands)
    assert ("transposed_convolution" in text) != ("conv_general_dilated" in text), text
    return "transposed_convolution" in text


def transposed(x, w):
    return lax.conv_transpose(x, w, (2, 2), "SAME")


def dilated(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), [(1, 2), (0, 3)], (2, 1), None, ("NHWC", "HWIO", "NHWC"))


@given(call=calls().filter(lambda call: call.legal and not call.overreaches))
def test_routed_calls_give_lax_results(call):
    """conv_transpose, and the conv_general_dilated that it makes; both gradients."""
    found = {key: value for key, value in call.convolution.items() if key != "out_sharding"}

    def whole(x, w):
        return lax.conv_transpose(x, w, **call.arguments)

    def made_of_it(x, w):
        rhs_spec = found["dimension_numbers"].rhs_spec
        turned = jnp.flip(w, rhs_spec[2:]).swapaxes(*rhs_spec[:2]) if call.transpose_kernel else w
        return lax.conv_general_dilated(x, turned, **found)

    def everything(x, w):
        return [with_gradients(f, x, w) for f in (whole, made_of_it)]

    with jax.enable_x64(True):
        x, w = call.arrays()
        with jdeconv.patch():
            assert routed(whole, x, w)
            assert routed(made_of_it, x, w)
        with jdeconv.patch(only="transposed"):
            assert routed(made_of_it, x, w) == (max(found["lhs_dilation"], default=1) > 1)
        theirs = jit(lambda x, w: everything(x, w))(x, w)
        with jdeconv.patch():
            ours = jit(lambda x, w: everything(x, w))(x, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)


NUMBERS = ("NHWC", "HWIO", "NHWC")
NOT_TAKEN = {
    "strided": lambda: lax.conv_general_dilated(X, W, (2, 1), [(1, 1), (1, 1)], (1, 2), None, NUMBERS),
    "groups of the batch": lambda: lax.conv_general_dilated(
        X, W, (1, 1), [(1, 1), (1, 1)], (2, 2), None, NUMBERS, batch_group_count=2
    ),
    "bool": lambda: lax.conv_transpose(X > 0, W > 0, (2, 2), "SAME"),
    "weakly typed": lambda: lax.conv_transpose(jnp.full(X.shape, 1.0), jnp.full(W.shape, 2.0), (2, 2), "SAME"),
    "an algorithm as precision": lambda: lax.conv_transpose(
        X, W, (2, 2), "SAME", precision=lax.DotAlgorithm(np.float32, np.float32, np.float32)
    ),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_other_calls_are_what_they_were(name):
    before = program(NOT_TAKEN[name])
    with jdeconv.patch():
        assert not routed(NOT_TAKEN[name])
        assert program(NOT_TAKEN[name]) == before


ORDINARY = {
    "not dilated": lambda: lax.conv_general_dilated(X, W, (1, 1), "SAME", None, (2, 2), NUMBERS),
    "dilated by 1": lambda: lax.conv_general_dilated(X, W, (1, 1), [(1, 1), (1, 1)], (1, 1), None, NUMBERS),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_convolutions_are_routed_unless_only_transposed_ones_are_asked_for(name):
    before = program(ORDINARY[name])
    with jdeconv.patch(only="transposed"):
        assert not routed(ORDINARY[name])
        assert program(ORDINARY[name]) == before
        with jdeconv.patch():
            assert routed(ORDINARY[name])
        assert not routed(ORDINARY[name])


ERRONEOUS = {
    "strides": lambda: lax.conv_transpose(X, W, 2, "SAME"),
    "padding": lambda: lax.conv_transpose(X, W, (2, 2), "CAUSAL"),
    "channels": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", transpose_kernel=True),
    "dtypes": lambda: lax.conv_transpose(X, W.astype("float16"), (2, 2), "SAME"),
    "layout": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", dimension_numbers=("NHWC",)),
    "no arguments": lambda: lax.conv_transpose(),
    "an argument of jdeconv's": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", method="phase"),
    "groups": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", feature_group_count=2),
    "string padding": lambda: lax.conv_general_dilated(X, W, (1, 1), "SAME", (2, 2), None, NUMBERS),
    "window": lambda: lax.conv_general_dilated(X, W, (1,), [(0, 0)] * 2, (2, 2), None, NUMBERS),
    "no array": lambda: lax.conv_general_dilated([1.0], W, (1, 1), [(0, 0)] * 2, (2, 2)),
}


def error_of(f):
    try:
        f()
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize("name", ERRONEOUS)
def test_errors_are_lax_own(name):
    before = error_of(ERRONEOUS[name])
    with jdeconv.patch():
        patched = error_of(ERRONEOUS[name])
    assert (type(patched), str(patched)) == (type(before), str(before))


def test_the_functions_look_as_before():
    with jdeconv.patch():
        for name, original in ORIGINALS.items():
            now = getattr(lax, name)
            assert now is not original
            assert (now.__name__, now.__doc__, now.__wrapped__) == (name, original.__doc__, original)


@pytest.mark.parametrize("method", RUN_HERE)
def test_formulations_do_not_call_themselves(method):
    """Formulations compute by lax's own functions, also where they are traced under the patch."""
    x, w = X[:1, :4], W.swapaxes(-1, -2)
    with jdeconv.patch():
        under = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)).lower(x, w).as_text()
    plain = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)).lower(x, w).as_text()
    assert under == plain


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


def explicit_mesh():
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)


@pytest.mark.parametrize("spec", [jax.P(), jax.P("data"), jax.P(None, "model"), jax.P(("data", "model"))], ids=str)
@pytest.mark.parametrize("f", [transposed, dilated])
def test_types_on_a_mesh_with_explicit_axes(f, spec):
    with jax.set_mesh(explicit_mesh()):
        x, w = jax.device_put(np.tile(X[:, :4], (2, 1, 1, 1)), spec), jax.device_put(W, jax.P())
        want = f(x, w)
        with jdeconv.patch():
            assert routed(f, x, w)
            got = f(x, w)
        assert jax.typeof(got) == jax.typeof(want)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_layout_that_moves_the_sharding_is_left_to_lax():
    """lax keeps a mesh axis at its position, where the result may have another dimension."""
    numbers = ("NHWC", "HWIO", "HNWC")
    with jax.set_mesh(explicit_mesh()):
        x, w = jax.device_put(np.tile(X[:, :4], (2, 1, 1, 1)), jax.P("data")), jax.device_put(W, jax.P())
        with jdeconv.patch():
            assert not routed(lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", None, numbers), x, w)


def check_model(apply, *operands):
    """The model's program has the operator, and its values are what they were."""
    want = jit(lambda *operands: apply(*operands))(*operands)
    with jdeconv.patch():
        assert routed(apply, *operands)
        got = jit(lambda *operands: apply(*operands))(*operands)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@needs(linen, "flax")
def test_a_linen_model_unedited():
    model = linen.Sequential(
        [linen.ConvTranspose(5, (3, 4), (2, 2)), linen.relu, linen.ConvTranspose(2, (3, 3), (1, 3))]
    )
    check_model(model.apply, model.init(jax.random.key(0), X), X)


@needs(nnx, "flax")
def test_an_nnx_model_unedited():
    model = nnx.ConvTranspose(4, 5, (3, 4), (2, 2), padding="VALID", rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    check_model(lambda state, x: nnx.merge(graph, state)(x), state, X)


@needs(haiku, "haiku")
def test_a_haiku_model_unedited():
    model = haiku.without_apply_rng(
        haiku.transform(lambda x: haiku.Conv2DTranspose(3, 4, 2, output_shape=(9, 12), data_format="NHWC")(x))
    )
    check_model(model.apply, model.init(jax.random.key(0), X), X)


@needs(equinox, "equinox")
def test_an_equinox_model_unedited():
    model = equinox.nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, key=jax.random.key(0))
    weights, rest = equinox.partition(model, equinox.is_array)
    check_model(lambda weights, x: jax.vmap(equinox.combine(weights, rest))(x), weights, X.transpose(0, 3, 1, 2))
