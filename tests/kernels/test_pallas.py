"""What chooses among the kernels: their common refusals, the platforms, Pallas loaded late. No kernel runs."""

import dataclasses
import functools
import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import computed
from jax import export

import jdeconv
from jdeconv._formulations import pallas
from jdeconv._geometry import build
from jdeconv._plan.problem import Problem

PROBLEM = Problem(build((8, 8), (4, 4), (2, 2), (1, 1), "SAME"), "output", 2, 1, 16, 8, "bfloat16")
X, W = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2, 3))


def refused(message):
    return pytest.raises(NotImplementedError, match=f"^{re.escape(message)}(\n|$)")  # JAX adds lines of its own


def geometry(**changes):
    return {"geometry": dataclasses.replace(PROBLEM.geometry, **changes)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"result": "kernel"}, None),
        ({"dtype": "float32"}, None),
        ({"dtype": "float16"}, "float16; expected bfloat16 or float32"),
        ({"dtype": "complex64"}, "complex64; expected bfloat16 or float32"),
        ({"groups": 4}, "4 groups; expected 1"),
        ({"batch": "n"}, "the size n is symbolic; expected a known number"),
        (geometry(input=("h", 8)), "the size h is symbolic; expected a known number"),
        (geometry(dilations=(2, 2)), "dilations=(2, 2); expected dilations of 1"),
        (
            {"geometry": build((4,) * 3, (2,) * 3, (2,) * 3, (1,) * 3, "SAME")},
            "3 spatial dimensions; expected 1 or 2",
        ),
    ],
    ids=str,
)
def test_what_no_kernel_does(changes, reason):
    assert pallas.supports(dataclasses.replace(PROBLEM, **changes)) == reason


def test_a_call_is_refused_before_it_is_compiled():
    message = "method='pallas': dilations=(2, 2); expected dilations of 1. Use method='auto'."
    with refused(message):
        jax.eval_shape(lambda: jdeconv.conv2d_transpose(X, W, dilations=2, method="pallas"))


ON_CPU = (
    "method='pallas': no kernel for CPU; expected a TPU or GPU. "
    "Use method='auto', or jax.experimental.pallas.tpu.force_tpu_interpret_mode()."
)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.grad(lambda x: f(x).sum())])
def test_a_cpu_has_no_kernel(wrap):
    with refused(ON_CPU):
        wrap(lambda x: jdeconv.conv2d_transpose(x, W, method="pallas"))(X)


def test_gradients_alone_need_no_kernel():
    """Gradients are formulations that any platform has."""
    y = jnp.ones((1, 8, 8, 2))
    f = functools.partial(jdeconv.conv2d_transpose, strides=2)
    for wrt, primal in ((0, X), (1, W)):
        linear = [lambda v, m=m, wrt=wrt: f(*((v, W) if wrt == 0 else (X, v)), method=m) for m in ("pallas", "lax")]
        ours, theirs = (jax.jit(jax.linear_transpose(g, primal))(y)[0] for g in linear)
        np.testing.assert_array_equal(ours, theirs)


def test_a_partitioned_program_has_no_kernel():
    message = (
        "method='pallas': a program over several devices; expected one device's. "
        "Use method='auto', or jax.shard_map over all axes."
    )
    sharding = jax.sharding.NamedSharding(jax.make_mesh((2,), ("x",)), jax.P("x"))
    x = jax.device_put(jnp.ones((2, 4, 4, 3)), sharding)
    with refused(message):
        jax.jit(lambda x: jdeconv.conv2d_transpose(x, W, method="pallas"))(x)


def test_without_pallas_all_else_works(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "pallas" in name else find(name, *a))
    pallas.available.cache_clear()
    try:
        message = "method='pallas': this JAX has no jax.experimental.pallas; expected one that has. Use method='auto'."
        with refused(message):
            jdeconv.conv2d_transpose(X, W, method="pallas")
        assert jdeconv.conv2d_transpose(X, W, strides=2).shape == (1, 8, 8, 2)
    finally:
        pallas.available.cache_clear()


def test_pallas_loads_when_a_kernel_is_asked_for():
    code = (
        "import sys, jax, jdeconv, jax.numpy as jnp\n"
        "x, w = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2, 3))\n"
        "jax.grad(lambda x: jdeconv.conv2d_transpose(x, w, strides=2).sum())(x)\n"
        "assert not [name for name in sys.modules if 'jax' in name and 'pallas' in name]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_explain_tells_of_it_where_no_kernel_runs():
    found = jdeconv.explain(X, W, strides=2, method="pallas")
    assert found.passes[0].temporary is None
    assert found.passes[1].temporary is not None


def test_a_line_is_a_plane_of_height_1():
    seen = {}

    class Kernel:
        @staticmethod
        def transpose_conv(x, w, geometry, engine):
            seen.update(x=x.shape, w=w.shape, geometry=geometry)
            return jnp.zeros((x.shape[0], *geometry.output, w.shape[2]))

    line = build((5,), (4,), (2,), (1,), "SAME")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, f"{pallas.__package__}.pallas_tpu", Kernel)
        y = computed("tpu", "output", jnp.ones((3, 5, 1, 2)), jnp.ones((4, 7, 1, 2)), line, "pallas")
    assert seen == {"x": (3, 1, 5, 2), "w": (1, 4, 7, 2), "geometry": build((1, 5), (1, 4), (1, 2), (1, 1), "SAME")}
    assert y.shape == (3, 10, 1, 7)


WIDE = jax.ShapeDtypeStruct((4, 16, 16, 128), "bfloat16"), jax.ShapeDtypeStruct((4, 4, 64, 128), "bfloat16")


def wide(x, w):
    return jdeconv.conv2d_transpose(x, w, strides=2)


def test_auto_takes_it_on_tpu_alone_and_export_takes_that():
    chosen = {name: choice.method for name, choice in jdeconv.explain(*WIDE, strides=2).passes[0].choices.items()}
    assert chosen["tpu"] == "pallas"
    assert "pallas" not in (chosen["cpu"], chosen["gpu"])
    exported = jax.export.export(jax.jit(wide), platforms=["cpu", "tpu", "cuda"])(*WIDE)
    assert exported.mlir_module().count("tpu_custom_call") == 1
    y = exported.call(*(jnp.ones(v.shape, v.dtype) for v in WIDE))
    assert y.shape == (4, 32, 32, 64)


def test_auto_takes_none_in_a_partitioned_program():
    mesh = jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,))
    shardings = (jax.sharding.NamedSharding(mesh, jax.P("x")), jax.sharding.NamedSharding(mesh, jax.P()))
    lowered = jax.jit(wide, in_shardings=shardings).trace(*WIDE).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" not in lowered.as_text()
    assert "tpu_custom_call" in jax.jit(wide).trace(*WIDE).lower(lowering_platforms=("tpu",)).as_text()


def test_auto_does_without_pallas(monkeypatch):
    monkeypatch.setattr(pallas, "available", lambda: False)
    chosen = jdeconv.explain(*WIDE, strides=2).passes[0].choices["tpu"]
    assert chosen.method != "pallas"


def test_an_unknown_number_of_kernels_has_no_kernel():
    """Exported for TPU: `auto` takes another way, and the method itself refuses it in words."""
    (count,) = export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((4, 32, 32, 64), "bfloat16")
    w = jax.ShapeDtypeStruct((count, 2, 2, 64, 64), "bfloat16")

    def f(method):
        one = lambda x, w: jdeconv.conv2d_transpose(x, w, (4, 64, 64, 64), strides=2, method=method)  # noqa: E731
        return export.export(jax.jit(jax.vmap(one, (None, 0))), platforms=["tpu"])

    assert "tpu_custom_call" not in f("auto")(x, w).mlir_module()
    with pytest.raises(NotImplementedError, match=r"^method='pallas': an unknown number of channels"):
        f("pallas")(x, w)
