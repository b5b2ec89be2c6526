"""A tuning in use, in a thread's blocks or everywhere: programs change, and are back after."""

import concurrent.futures
import threading

import jax
import numpy as np
import pytest
from jax import P
from jax.sharding import NamedSharding
from places import mesh
from tunings import BLOCKS, TAPS, W, X, entry, program, tuning

import jdeconv
from jdeconv import Tuning, use_tuning


def up(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


def loss(w, x):
    return (up(x, w) ** 2).sum()


def test_a_program_changes_inside_and_is_back_after():
    f, before = jax.jit(up), jax.jit(up).lower(X, W).as_text()
    by_taps, by_blocks = tuning(entry(TAPS)), tuning(entry(BLOCKS))
    want = f(X, W)
    with by_taps as entered:
        assert entered is by_taps
        inside, ours = f.lower(X, W).as_text(), f(X, W)
        with by_blocks:
            assert f.lower(X, W).as_text() not in (inside, before)
            with tuning(entry(TAPS, batch=77)):  # has no such operation
                assert "taps" not in jdeconv.explain(X, W, strides=2).passes[0].choices["cpu"].method
        assert f.lower(X, W).as_text() == inside
        np.testing.assert_allclose(up(X, W), ours, rtol=1e-5, atol=1e-5)  # an eager call
    assert inside != before
    assert f.lower(X, W).as_text() == before
    np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-5)


def test_it_is_part_of_the_key_of_jits_cache():
    traced = []

    @jax.jit
    def f(x, w):
        traced.append(None)
        return up(x, w)

    by_taps = tuning(entry(TAPS))
    for _ in range(2):
        f(X, W)
        with by_taps:
            f(X, W)
        with tuning(entry(TAPS, ms=(7, 3))):  # an equal one
            f(X, W)
    assert len(traced) == 2


def test_gradients_and_exported_programs_use_it():
    by_taps = tuning(entry(TAPS), entry(TAPS, result="kernel"))
    with by_taps:
        step = jax.jit(jax.grad(loss))
        gradient = step(W, X)
        exported = jax.export.export(jax.jit(up), platforms=["cpu", "tpu"])(X, W)
        inside = exported.mlir_module()
    outside = jax.export.export(jax.jit(up), platforms=["cpu", "tpu"])(X, W).mlir_module()
    assert inside != outside
    np.testing.assert_allclose(exported.call(X, W), up(X, W), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, jax.grad(loss)(W, X), rtol=1e-4, atol=1e-4)


def test_parts_of_a_partitioned_program_use_it():
    rows = NamedSharding(mesh(2), P("a"))
    f = jax.jit(up, in_shardings=(rows, NamedSharding(mesh(2), P())))
    with tuning(entry(TAPS, batch=1)):
        inside = f.lower(X, W).compile()
    outside = f.lower(X, W).compile()
    assert inside.as_text() != outside.as_text()
    assert "convolution(" not in inside.as_text()
    np.testing.assert_allclose(inside(X, W), outside(X, W), rtol=1e-5, atol=1e-5)


def test_explain_names_the_tuning():
    with tuning(entry(TAPS, ms=(2.0, 1.0))):
        found = jdeconv.explain(X, W, strides=2)
    choice = found.passes[0].choices["cpu"]
    assert (choice.method, choice.variant) == ("taps", "windows")
    assert "taps: tuning, measured on cpu: " in str(found)
    assert "1 ms; lax: plain 2 ms" in str(found)
    assert "tuning" not in str(jdeconv.explain(X, W, strides=2))


def test_a_block_is_for_its_thread():
    by_taps, before = tuning(entry(TAPS)), program(up, X, W)
    entered, done = threading.Event(), threading.Event()

    def inside():
        with by_taps:
            entered.set()
            done.wait(60)
            return program(up, X, W)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(inside)
        entered.wait(60)
        assert program(up, X, W) == before
        done.set()
        assert other.result() != before


def test_blocks_may_be_left_in_any_order_and_entered_again():
    by_taps, by_blocks, before = tuning(entry(TAPS)), tuning(entry(BLOCKS)), program(up, X, W)
    with by_taps:
        taps = program(up, X, W)
        with by_taps:
            assert program(up, X, W) == taps
        assert program(up, X, W) == taps
    by_taps.__enter__()
    by_blocks.__enter__()
    by_taps.__exit__(None, None, None)
    assert program(up, X, W) not in (taps, before)
    by_blocks.__exit__(None, None, None)
    assert program(up, X, W) == before
    with pytest.raises(ZeroDivisionError), by_taps:
        1 / 0  # noqa: B018
    assert program(up, X, W) == before


def test_in_use_everywhere_until_restored(tmp_path):
    path, before = tmp_path / "a.json", program(up, X, W)
    tuning(entry(TAPS)).save(path)
    with tuning(entry(TAPS)):
        taps = program(up, X, W)
    with tuning(entry(BLOCKS)):
        blocks = program(up, X, W)
    first = use_tuning(path)
    try:
        assert first.tuning == Tuning.load(path)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(program, up, X, W).result() == taps
        second = use_tuning(tuning(entry(BLOCKS)))
        assert program(up, X, W) == blocks
        with tuning(entry(TAPS)):
            assert program(up, X, W) == taps
        none = use_tuning(None)
        assert program(up, X, W) == before
        none.restore()
        first.restore()
        assert program(up, X, W) == blocks
        second.restore()
        second.restore()
        assert program(up, X, W) == before
    finally:
        for used in (first, second, none):
            used.restore()
