"""Nothing grows with the number of calls, no tracer escapes, and threads don't disturb one another."""

import functools
import gc
import importlib
import inspect
import pkgutil
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdeconv
from jdeconv import _settings
from jdeconv._operator import lowering

CALLS = 10_000


def problem(size=4, channels=2, kernel=3):
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.integers(-3, 4, (1, size, size, channels)), "float32")  # whole numbers: all sums are exact
    w = jnp.asarray(rng.integers(-3, 4, (kernel, kernel, channels, channels)), "float32")
    return x, w


def upsampled(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


def loss(x, w):
    return (upsampled(x, w) ** 2).sum()


def grown(call):
    """What many calls leave behind: arrays, compiled programs, jaxprs, objects that Python tracks."""

    def counts():
        gc.collect()
        objects = gc.get_objects()
        jaxprs = sum(type(each).__name__ in ("Jaxpr", "ClosedJaxpr", "JaxprEqn") for each in objects)
        cached = lowering._compiled._cache_size(), lowering._partitioned._cache_size()
        return np.array([len(jax.live_arrays()), sum(cached), jaxprs, len(objects)])

    for _ in range(10):
        call()
    before = counts()
    for _ in range(CALLS):
        call()
    return counts() - before


@pytest.mark.sampled(0)
def test_nothing_grows_over_eager_calls():
    x, w = problem()
    arrays, programs, jaxprs, objects = grown(lambda: upsampled(x, w))
    assert (arrays, programs, jaxprs) == (0, 0, 0)
    assert objects < CALLS / 100


@pytest.mark.sampled(0)
def test_nothing_grows_over_compiled_gradients():
    x, w = problem()
    step = jax.jit(jax.grad(loss, (0, 1)))
    arrays, programs, jaxprs, objects = grown(lambda: step(x, w))
    assert (arrays, programs, jaxprs) == (0, 0, 0)
    assert objects < CALLS / 100


def test_what_is_kept_for_each_shape_is_let_go():
    jax.clear_caches()
    for size in range(2, 12):
        upsampled(*problem(size))
        upsampled(*problem(size))
    assert lowering._compiled._cache_size() == 10  # JAX keeps 4096 at most
    jax.clear_caches()
    assert lowering._compiled._cache_size() == 0


def modules():
    """All modules of jdeconv that can be imported here: a framework may be missing."""
    for found in pkgutil.walk_packages(jdeconv.__path__, "jdeconv."):
        try:
            yield importlib.import_module(found.name)
        except ModuleNotFoundError as missing:
            if missing.name.startswith("jdeconv"):
                raise


def remembering(module):
    """The functions that keep results, of a module and of its classes, by name."""
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    for owner in (module, *classes):
        for name, value in vars(owner).items():
            function = getattr(value, "__func__", value)  # of a classmethod or staticmethod
            if hasattr(function, "cache_parameters"):
                yield name, function


def unbounded(module):
    """The names of functions that may keep any number of results: they have arguments and no bound."""
    for name, function in remembering(module):
        if function.cache_parameters()["maxsize"] is None and inspect.signature(function).parameters:
            yield name


def test_a_cache_without_bound_is_found():
    module = types.ModuleType("module")
    source = """
import functools
class A:
    @functools.cache
    def method(self): ...
    @staticmethod
    @functools.cache
    def static(*sizes): ...
    @functools.lru_cache(8)
    def bounded(self): ...
cached = functools.lru_cache(None)(lambda **options: 0)
once = functools.cache(lambda: 0)
"""
    exec(source, vars(module))
    assert [*unbounded(module)] == ["cached", "method", "static"]


def test_every_cache_is_bounded():
    """A function that keeps results has no argument or a bound, and no module's container grows."""
    everything = list(modules())

    def containers():
        return {
            (module.__name__, name): len(value)
            for module in everything
            for name, value in vars(module).items()
            if isinstance(value, (dict, list, set)) and not name.startswith("__")
        }

    assert "_probed" in {name for module in everything for name, _ in remembering(module)}
    assert [(module.__name__, name) for module in everything for name in unbounded(module)] == []
    before = containers()
    for size in range(2, 5):
        jax.grad(loss, (0, 1))(*problem(size))
    assert containers() == before


DERIVATIVES = {
    "value": upsampled,
    "gradients": jax.grad(loss, (0, 1)),
    "jvp": lambda x, w: jax.jvp(upsampled, (x, w), (x, w)),
    "hessian": lambda x, w: jax.hessian(loss)(x, w),
    "vmap": jax.vmap(jax.grad(loss, (0, 1)), (None, 0)),
    "scan": lambda x, w: jax.lax.scan(lambda w, _: (w - jax.grad(loss, 1)(x, w), None), w, length=2),
    "checkpoint": jax.grad(jax.checkpoint(loss), (0, 1)),
    "patched": lambda x, w: patched(x, w),
}


def patched(x, w):
    with jdeconv.patch():
        return jax.grad(lambda x, w: (jax.lax.conv_transpose(x, w, (2, 2), "SAME") ** 2).sum(), (0, 1))(x, w)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_no_tracer_escapes(name):
    x, w = problem()
    with jax.checking_leaks():
        jax.block_until_ready(jax.jit(DERIVATIVES[name])(x, jnp.stack([w, w]) if name == "vmap" else w))


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox"])
def test_no_tracer_escapes_a_layer(library):
    pytest.importorskip("equinox" if library == "equinox" else "flax")
    layers, x, key = importlib.import_module(f"jdeconv.{library}"), problem()[0], jax.random.key(0)
    with jax.checking_leaks():
        if library == "linen":
            layer = layers.ConvTranspose(2, (3, 3), (2, 2))
            state = jax.jit(layer.init)(key, x)
            apply = layer.apply
        elif library == "equinox":
            import equinox

            layer = layers.ConvTranspose2d(2, 2, 3, 2, key=key)
            state, rest = equinox.partition(layer, equinox.is_array)
            apply = lambda state, x: equinox.combine(state, rest)(x[0].transpose(2, 0, 1))  # noqa: E731
        else:
            from flax import nnx

            rest, state = nnx.split(layers.ConvTranspose(2, 2, (3, 3), (2, 2), rngs=nnx.Rngs(0)))
            apply = lambda state, x: nnx.merge(rest, state)(x)  # noqa: E731
        gradients = jax.jit(jax.grad(lambda state, x: (apply(state, x) ** 2).sum()))(state, x)
    assert all(np.isfinite(each).all() for each in jax.tree.leaves(gradients))


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_debug_nans(wrap):
    x, w = problem()
    both = wrap(jax.value_and_grad(loss, (0, 1)))
    with jax.debug_nans(True):
        jax.block_until_ready(both(x, w))  # none is made on the way
        with pytest.raises(FloatingPointError, match="nan"):
            jax.block_until_ready(both(x.at[0, 1, 1, 0].set(jnp.nan), w))
    jax.block_until_ready(both(x, w))


@pytest.fixture
def onednn_as_it_was():
    was = _settings.onednn.value
    yield
    jdeconv.use_onednn(was)


@pytest.mark.sampled(0)
@pytest.mark.usefixtures("onednn_as_it_was")
def test_threads():
    """Eight threads trace, compile, run and differentiate at once, patched or not, while oneDNN goes on and off."""
    threads, rounds = 8, 6
    sizes = [(size, channels) for size in (3, 4, 5) for channels in (2, 8)]
    reference = jax.value_and_grad(lambda x, w: (lax_upsampled(x, w) ** 2).sum(), (0, 1))
    wanted = {each: jax.device_get(reference(*problem(*each))) for each in sizes}
    barrier, failed = threading.Barrier(threads), []

    def work(number):
        barrier.wait()
        for round in range(rounds):
            each = sizes[(number + round) % len(sizes)]
            x, w = problem(*each)
            jdeconv.use_onednn((number + round) % 2 == 0)
            if number % 2:
                with jdeconv.patch():
                    found = jax.value_and_grad(lambda x, w: (lax_upsampled(x, w) ** 2).sum(), (0, 1))(x, w)
            else:
                wrap = jax.jit if round % 2 else lambda f: f
                found = wrap(jax.value_and_grad(functools.partial(loss), (0, 1)))(x, w)
            failed.extend(
                (number, each)
                for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted[each]), strict=True)
                if not np.array_equal(a, b)
            )

    stood = jax.lax.conv_transpose
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()
    assert not failed
    assert jax.lax.conv_transpose is stood


def lax_upsampled(x, w):
    return jax.lax.conv_transpose(x, w, (2, 2), "SAME", transpose_kernel=True)
