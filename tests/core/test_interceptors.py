"""What is traced inside is our own, whatever stands in `jax.lax` and `jax.numpy` at the time."""

import contextlib
import functools
import os
import pathlib
import subprocess
import sys
import traceback

import interceptor_child
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE, Case
from h100 import on_h100
from interceptors import Intercepted, doubling, exchanged, raising
from jax import export, lax

import jdeconv
from jdeconv import _settings
from jdeconv._engine import onednn
from jdeconv._formulations import METHODS
from jdeconv._operator.primitive import solve

CASES = {
    "4x4, stride 2": Case(2, (8, 8), (4, 4), (2, 2), (1, 1), "SAME", (16, 16), 1, 32, 3),
    "5x5, stride 2": Case(2, (6, 7), (5, 5), (2, 2), (1, 1), "SAME", (12, 14), 1, 16, 8),
    "3x3, stride 2, bfloat16": Case(2, (8, 8), (3, 3), (2, 2), (1, 1), "SAME", (16, 16), 1, 16, 16, dtype="bfloat16"),
    "one block": Case(2, (6, 6), (2, 2), (2, 2), (1, 1), "VALID", (12, 12), 1, 16, 8),
    "kernel below stride": Case(2, (6, 6), (2, 2), (3, 3), (1, 1), "VALID", (18, 17), 1, 4, 3),
    "one position": Case(8, (1, 1), (4, 4), (1, 1), (1, 1), "VALID", (4, 4), 1, 32, 16),
    "one tap": Case(2, (5, 6), (1, 1), (2, 2), (1, 1), "VALID", (9, 11), 1, 4, 3),
    "stride 1": Case(2, (7, 7), (3, 3), (1, 1), (1, 1), "SAME", (7, 7), 1, 8, 8),
    "dilated": Case(2, (5, 6), (3, 2), (2, 2), (2, 3), "VALID", (13, 14), 1, 3, 2),
    "grouped": Case(2, (6, 6), (4, 4), (2, 2), (1, 1), "SAME", (12, 12), 4, 8, 2),
    "depthwise": Case(2, (7, 7), (3, 3), (1, 1), (1, 1), "SAME", (7, 7), 24, 1, 1),
    "depthwise, stride 2": Case(2, (6, 6), (4, 4), (2, 2), (1, 1), "SAME", (12, 12), 24, 1, 1),
    "vocoder": Case(1, (50,), (16,), (8,), (1,), "SAME", (400,), 1, 32, 16),
    "volume": Case(1, (3, 4, 3), (4, 4, 4), (2, 2, 2), (1, 1, 1), "SAME", (6, 8, 6), 1, 8, 4),
    "integers": Case(1, (4, 4), (3, 3), (2, 2), (1, 1), "SAME", (8, 8), 1, 4, 3, dtype="int32"),
    "complex": Case(1, (4, 4), (3, 3), (2, 2), (1, 1), "SAME", (8, 8), 1, 4, 3, dtype="complex64"),
    "nothing reached": Case(1, (2, 2), (1, 1), (1, 1), (1, 1), ((1, 1), (1, 1)), (0, 0), 1, 2, 2),
    "empty batch": Case(0, (2, 2), (3, 3), (2, 2), (1, 1), "SAME", (4, 4), 1, 2, 2),
}
BIG = Case(2, (16, 16), (4, 4), (2, 2), (1, 1), "SAME", (32, 32), 1, 64, 3)


@pytest.fixture(autouse=True)
def forgotten():
    """Programs compiled by an earlier test are not used here, nor these by a later one."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture(params=["on", "off"])
def switched(request):
    with _settings.onednn(request.param == "on"):
        yield


# The poison: no public function of either module may be called at all.


def equation(case, result):
    """The operator solved for `result`, as a function of its two operands."""
    named = dict(zip(("input", "kernel", "output"), case.arrays(), strict=True))
    del named[result]
    given = {role: v.reshape(*v.shape[:-1], case.groups, v.shape[-1] // case.groups) for role, v in named.items()}
    dtype = next(iter(given.values())).dtype
    return functools.partial(solve, result, case.geometry, dtype=dtype), given


def looked_up(error):
    """Which function was called, and where in this package."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "jdeconv" in frame.filename]
    last = next(frame for frame in reversed(frames) if "tests" not in pathlib.Path(frame.filename).parts)
    return f"{error} in {pathlib.Path(last.filename).name}:{last.lineno}"


@pytest.mark.sampled(5)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_no_program_calls_what_stands_in_lax_or_numpy(method, platform):
    """The call is traced and lowered for every platform; what is called all the same is listed."""
    found = []
    for name, case in CASES.items():
        for result in ("output", "input", "kernel"):
            f, given = equation(case, result)
            try:
                with on_h100() if (method, platform) == ("pallas", "cuda") else contextlib.nullcontext(), raising():
                    jax.jit(functools.partial(f, method=method)).trace(**given).lower(lowering_platforms=(platform,))
            except NotImplementedError:  # of a method that can't do this
                assert method != "auto"
            except Intercepted as error:
                found.append(f"{name}, {result}: {looked_up(error)}")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("method", ["auto", *RUN_HERE])
@pytest.mark.parametrize("mode", ["eager", "jit", "disable_jit", "vmap", "vmap of both", "grad", "second", "export"])
def test_no_transformation_calls_them(method, mode, switched):
    case = CASES["4x4, stride 2"]
    x, w, y = map(jnp.asarray, case.arrays())
    f = case.function(method)
    loss = lambda x, w: (f(x, w) ** 2).sum()  # noqa: E731
    # Whatever calls jax.numpy for itself, as a test does, has done so before.
    xs, ws = (np.stack([v, v]) for v in (x, w))
    runs = {
        "eager": lambda: f(x, w),
        "jit": lambda: jax.jit(f)(x, w),
        "disable_jit": lambda: f(x, w),
        "vmap": lambda: jax.vmap(f, (0, None))(xs, w),
        "vmap of both": lambda: jax.jit(jax.vmap(f))(xs, ws),
        "grad": lambda: jax.vjp(f, x, w)[1](y),
        "second": lambda: jax.jvp(jax.grad(loss, (0, 1)), (x, w), (x, w)),
        "export": lambda: export.export(jax.jit(f), platforms=["cpu", "tpu"])(x, w),
    }
    with jax.disable_jit(mode == "disable_jit"), raising():
        runs[mode]()


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("spec", [jax.P("a"), jax.P(None, "a"), jax.P(None, None, None, "a")], ids=str)
def test_no_program_of_many_devices_calls_them(spec, kind):
    """Value and gradients of an input whose batch, rows or channels are split over two devices."""
    case = CASES["4x4, stride 2"]
    x, w, y = case.arrays()
    with jax.set_mesh(jax.make_mesh((2,), ("a",), (getattr(jax.sharding.AxisType, kind),))):
        x, w, y = jax.device_put(x, spec), jax.device_put(w, jax.P()), jnp.asarray(y)
        if kind == "Explicit":
            y = jax.device_put(y, jax.typeof(jax.eval_shape(case.function(), x, w)).sharding.spec)
        program = jax.jit(functools.partial(all_three, case.function()))
        with raising():
            found = program(x, w, y)
    check(case, found)


def test_the_probe_of_onednn_calls_none():
    before = onednn.unavailable()
    onednn._probed.cache_clear()
    with raising():
        assert onednn.unavailable() == before
    onednn._probed.cache_clear()


# Doubles: the numbers stay right, then and afterwards.


def check(case, found):
    """Checks the value, and both gradients where they are there."""
    for got, want, bound, terms in zip(
        found, case.expected(), case.expected(magnitudes=True), case.terms, strict=False
    ):
        case.check_one(np.asarray(got), want, bound, terms + 1)


def value(f, x, w, y):
    return [f(x, w)]


def all_three(f, x, w, y):
    out, pull = jax.vjp(f, x, w)
    return [out, *pull(y)]


def test_the_doubles_double():
    for doubles in (doubling, exchanged):
        with doubles():
            assert jnp.einsum("i,i->", np.ones(3, "float32"), np.ones(3, "float32")) > 3
        assert jnp.einsum("i,i->", np.ones(3, "float32"), np.ones(3, "float32")) == 3


@pytest.mark.sampled(19)
@pytest.mark.parametrize("doubles", [doubling, exchanged])
@pytest.mark.parametrize("method", ["auto", *RUN_HERE])
@pytest.mark.parametrize("find", [value, all_three])
def test_eager_calls_under_doubles_and_after(method, find, doubles, switched):
    """JAX compiles eager calls once for a process."""
    f, (x, w, y) = BIG.function(method), BIG.arrays()
    with doubles():
        inside = find(f, x, w, y)
    check(BIG, inside)
    check(BIG, find(f, x, w, y))
    check(BIG, jax.jit(functools.partial(find, f))(x, w, y))


@pytest.mark.parametrize("find", [value, all_three])
def test_a_program_traced_under_doubles_stays_right(find, switched):
    x, w, y = BIG.arrays()
    program = jax.jit(functools.partial(find, BIG.function()))
    with doubling():
        check(BIG, program(x, w, y))
        lowered = program.lower(x, w, y)
    check(BIG, program(x, w, y))
    check(BIG, lowered.compile()(x, w, y))


@pytest.mark.parametrize("find", [value, all_three])
def test_a_program_traced_before_doubles_stays_right(find, switched):
    x, w, y = BIG.arrays()
    program = jax.jit(functools.partial(find, BIG.function()))
    traced, lowered = program.trace(x, w, y), program.lower(x, w, y)
    with doubling():
        check(BIG, traced.lower().compile()(x, w, y))
        check(BIG, lowered.compile()(x, w, y))
        check(BIG, program(x, w, y))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("over", ["input", "kernel", "both"])
def test_vmap_under_doubles(over, switched):
    """The result of each of two examples is the case's own."""
    x, w, y = BIG.arrays()
    axes = {"input": (0, None, 0), "kernel": (None, 0, 0), "both": (0, 0, 0)}[over]
    stacks = [v if axis is None else np.stack([v, v]) for v, axis in zip((x, w, y), axes, strict=True)]
    mapped = jax.vmap(functools.partial(all_three, BIG.function()), axes)
    with doubling():
        inside = mapped(*stacks), jax.jit(mapped)(*stacks)
    for found in (*inside, mapped(*stacks)):
        for example in range(2):
            check(BIG, [v[example] for v in found])


# Every public function computes the same numbers, spelt its own way.


def tensorflow(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


def any_rank(x, w):
    return jdeconv.conv_transpose(x, w, None, 2)


def torch(x, w):
    y = jdeconv.torch.conv_transpose2d(x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), stride=2, padding=1)
    return y.transpose(0, 2, 3, 1)


def onnx(x, w):
    y = jdeconv.onnx.conv_transpose(
        x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), np.zeros(3, np.float32), strides=[2, 2], pads=[1] * 4
    )
    return y.transpose(0, 2, 3, 1)


def keras(x, w):
    return jdeconv.keras.conv_transpose(x, w, 2, "same", data_format="channels_last")


def of_lax(x, w):
    return jdeconv.lax.conv_transpose(x, w, (2, 2), "SAME", transpose_kernel=True)


def patched(x, w):
    """Entered last, so that a call of lax comes to the patch first."""
    with jdeconv.patch():
        return lax.conv_transpose(x, w, (2, 2), "SAME", transpose_kernel=True)


def linen(x, w):
    pytest.importorskip("flax")
    layer = jdeconv.linen.ConvTranspose(3, (4, 4), (2, 2), use_bias=False, transpose_kernel=True)
    return layer.apply({"params": {"kernel": w}}, x)


def nnx(x, w):
    nnx = pytest.importorskip("flax.nnx")
    options = dict(use_bias=False, transpose_kernel=True, rngs=nnx.Rngs(0))
    layer = jdeconv.nnx.ConvTranspose(64, 3, (4, 4), (2, 2), **options)
    layer.kernel[...] = w
    return layer(x)


def equinox(x, w):
    eqx = pytest.importorskip("equinox")
    options = dict(padding=1, use_bias=False, key=jax.random.key(0))
    layer = jdeconv.equinox.ConvTranspose2d(64, 3, 4, 2, **options)
    flipped = w.transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]  # Equinox's kernels slide
    layer = eqx.tree_at(lambda layer: layer.weight, layer, flipped)
    return jax.vmap(lambda x: layer(x.transpose(2, 0, 1)).transpose(1, 2, 0))(x)


CALLS = (tensorflow, any_rank, torch, onnx, keras, of_lax, patched, linen, nnx, equinox)
FRAMEWORKS = (linen, nnx, equinox, patched)  # which call jax.lax and jax.numpy for themselves


@pytest.mark.sampled(9)
@pytest.mark.parametrize("find", [value, all_three])
@pytest.mark.parametrize("call", CALLS)
def test_every_facade_under_doubles_and_after(call, find):
    x, w, y = map(jnp.asarray, BIG.arrays())
    call(x, w)  # a framework that doubles once in its own set-up has done so
    jax.clear_caches()
    with doubling():
        inside = find(call, x, w, y), jax.jit(functools.partial(find, call))(x, w, y)
    for found in (*inside, find(call, x, w, y)):
        check(BIG, found)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("call", [call for call in CALLS if call not in FRAMEWORKS])
@pytest.mark.parametrize("as_given", [np.asarray, jnp.asarray])
def test_no_facade_calls_what_stands_in_lax_or_numpy(call, as_given):
    x, w, y = map(as_given, BIG.arrays())
    with raising():
        found = all_three(call, x, w, y), jax.jit(functools.partial(all_three, call))(x, w, y)
    for each in found:
        check(BIG, each)


OTHERS = {
    "explain": lambda: str(jdeconv.explain(*BIG.arrays()[:2], strides=2)),
    "output_sizes": lambda: jdeconv.output_sizes(np.array([5, 7]), 3, 2),
    "overlap": lambda: jdeconv.overlap((5, 7), 3, strides=2),
    "bilinear": lambda: jdeconv.initializers.bilinear()(None, (4, 4, 2, 2)),
    "bicubic": lambda: jdeconv.initializers.bicubic()(None, (8, 8, 2, 2)),
    "icnr": lambda: jdeconv.initializers.icnr(jax.nn.initializers.zeros)(KEY, (4, 4, 2, 2)),
    "convert.kernel": lambda: jdeconv.convert.kernel(jnp.ones((4, 3, 2, 2)), "torch", "flax"),
}
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in ("icnr", "convert.kernel")])
def test_no_other_function_calls_them(name):
    with raising():
        OTHERS[name]()


# A library that replaces functions for good may do so before this package is imported.


@pytest.mark.parametrize("kind", ["doubling", "raising"])
def test_imported_while_others_stand_there(kind):
    """`import jdeconv` itself, then values and gradients, under the interceptor and after it."""
    path = os.pathsep.join(each for each in sys.path if each)
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    child = [sys.executable, interceptor_child.__file__, kind]
    run = subprocess.run(child, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.split() == ["right"] * 4, run.stdout
