"""Where programs may hold oneDNN's calls: loops, threads, devices, compiled before; and the switch."""

import functools
import threading
from concurrent import futures

import jax
import numpy as np
import pytest
from jax import lax
from onednn_sample import CALL, calls, needs_onednn, ours, sample, theirs

import jdeconv
from jdeconv._engine import onednn


def close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual, expected)


@needs_onednn
def test_programs_hold_the_calls():
    assert calls(ours, *sample()) == 1
    close(jax.jit(ours)(*sample()), theirs(*sample()))


@needs_onednn
@pytest.mark.parametrize("setting", ["nothing", "no jit", "x64", "nans", "mesh", "strict"])
def test_the_probe_runs_while_another_program_is_lowered(setting, fresh_probe):
    contexts = {
        "no jit": lambda: jax.disable_jit(),
        "x64": lambda: jax.enable_x64(True),
        "nans": lambda: jax.debug_nans(True),
        "mesh": lambda: jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("a",))),
        "strict": lambda: jax.numpy_dtype_promotion("strict"),
        "nothing": lambda: jax.disable_jit(False),
    }
    with contexts[setting]():
        seen = []
        jax.make_jaxpr(lambda x, w: (seen.append(onednn.unavailable()), ours(x, w))[1])(*sample())
    assert seen == [None]


@needs_onednn
def test_in_loops():
    x, w = sample()

    def step(carry, w):
        return carry * 0.5, ours(carry, w)

    kernels = np.stack([w, w + 1, w - 1])
    _, results = jax.jit(lambda x, kernels: lax.scan(step, x, kernels))(x, kernels)
    close(results, np.stack([theirs(x * 0.5**i, k) for i, k in enumerate(kernels)]))


@needs_onednn
def test_from_many_threads_and_many_calls_at_once(fresh_probe):
    x, w = sample()
    results = {}

    def work(n):
        program = jax.jit(lambda x, w: [ours(x + i, w * n) for i in range(6)])
        results[n] = [program(x, w) for _ in range(5)][-1]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for n in range(4):
        close(results[n], [theirs(x + i, w * np.float32(n)) for i in range(6)])


@needs_onednn
def test_donated_operands_are_not_overwritten_too_early():
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 16)).astype("float32")
    w = np.random.default_rng(1).standard_normal((1, 1, 16, 16)).astype("float32")
    arguments = dict(window_strides=(1, 1), padding=((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def expected(x, w):
        for _ in range(3):
            x = lax.conv_general_dilated(x, w, **arguments)
        return x

    def program(x, w):
        for _ in range(3):
            x = onednn.conv(x, w, **arguments)
        return x

    close(jax.jit(program, donate_argnums=0)(jax.numpy.array(x), w), expected(x, w))


@needs_onednn
def test_each_device_calls_it_under_shard_map():
    x, w = np.concatenate([sample()[0]] * 4), sample()[1]
    mesh = jax.make_mesh((8,), ("n",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        ours,
        mesh=mesh,
        in_specs=(jax.P("n"), jax.P()),
        out_specs=jax.P("n"),
        check_vma=False,
    )
    assert calls(split, x, w) == 1
    close(jax.jit(split)(x, w), theirs(x, w))


@needs_onednn
def test_a_stride_beyond_the_kernel_is_taken_from_the_image_first():
    """oneDNN still has the convolution, over the rows and columns that taps reach."""
    x, w = np.ones((2, 9, 8, 4), np.float32), np.random.default_rng(0).standard_normal((1, 3, 8, 4), np.float32)
    f = lambda x, w: jdeconv.conv2d_transpose(x, w, None, (4, 2), method="lax")  # noqa: E731
    pull = lambda x, w, y: jax.vjp(lambda x: f(x, w), x)[1](y)[0]  # noqa: E731
    y = np.asarray(f(x, w)) ** 2
    assert calls(pull, x, w, y) == 1
    with jax.enable_x64(True):
        close(jax.jit(pull)(x, w, y), jax.jit(pull)(*(v.astype("float64") for v in (x, w, y))))


@needs_onednn
def test_a_compiled_program_is_serialised_without_it():
    """As docs/pages/onednn.md says. With it jaxlib runs out of memory, or worse: that is not tried."""
    from jax.experimental import serialize_executable

    x, w = np.ones((4, 16, 16, 32), "float32"), np.ones((3, 3, 32, 32), "float32")

    def compiled():
        return jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2)).lower(x, w).compile()

    assert CALL in compiled().as_text()  # what JAX has kept of it is not taken
    onednn.use_onednn(False)
    try:
        program = compiled()
        stored = serialize_executable.serialize(program)
        again = serialize_executable.deserialize_and_load(*stored, execution_devices=jax.devices()[:1])
        np.testing.assert_array_equal(again(x, w), program(x, w))
    finally:
        onednn.use_onednn(True)


@pytest.fixture
def traced(monkeypatch):
    """The calls of oneDNN that were traced, in any thread."""
    seen, call = [], onednn._call
    monkeypatch.setattr(onednn, "_call", lambda *arguments: seen.append(1) or call(*arguments))
    jax.clear_caches()  # of what other tests have traced
    yield seen
    onednn.use_onednn(True)


def upsampled(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


X, W, Y = (np.ones(shape, "float32") for shape in ((4, 16, 16, 32), (3, 3, 32, 32), (4, 32, 32, 32)))
USES = {
    "eager": lambda: functools.partial(upsampled, X, W),
    "jit": lambda: functools.partial(jax.jit(upsampled), X, W),
    "gradient": lambda: functools.partial(jax.jit(jax.grad(lambda x, w: upsampled(x, w).sum(), (0, 1))), X, W),
    "eager gradient": lambda: functools.partial(jax.grad(lambda x, w: upsampled(x, w).sum(), (0, 1)), X, W),
    "vjp taken before": lambda: functools.partial(jax.vjp(jax.jit(upsampled), X, W)[1], Y),
    "linearized before": lambda: functools.partial(jax.linearize(jax.jit(upsampled), X, W)[1], X, W),
    "scan": lambda: functools.partial(
        jax.jit(lambda x, w: lax.scan(lambda c, _: (c, upsampled(c, w)), x, length=2)), X, W
    ),
}  # fmt: skip


@needs_onednn
@pytest.mark.parametrize("name", USES)
def test_the_switch_reaches_what_was_compiled_before(name, traced, caplog):
    """Off it is compiled once more, without oneDNN; on again, it is what it was."""
    call = USES[name]()
    on = call()
    before = len(traced)
    assert before > 0
    compiled = []
    for enabled in (False, False, True, True):
        onednn.use_onednn(enabled)
        with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
            caplog.clear()
            found = call()
            compiled.append(any("Finished XLA compilation" in message for message in caplog.messages))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), found, on)
    assert compiled == [True, False, False, False]
    assert len(traced) == before
    for got, first in zip(*map(jax.tree.leaves, (found, on)), strict=True):
        np.testing.assert_array_equal(got, first)


@needs_onednn
def test_the_switch_holds_in_every_thread(traced):
    program = jax.jit(upsampled)
    text = lambda: program.lower(X, W).compile().as_text()  # noqa: E731

    def in_thread():
        with futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(text).result()

    assert CALL in text()
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(jdeconv.use_onednn, False).result()
    assert CALL not in text()
    assert CALL not in in_thread()
    jdeconv.use_onednn(True)
    assert CALL in in_thread()
