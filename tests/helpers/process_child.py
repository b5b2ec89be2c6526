"""A process of tests/devices/test_processes.py: a training step on a mesh of all devices, then its numbers."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import P
from jax.sharding import AxisType, NamedSharding

import jdeconv


def step(w, x, target):
    loss, gradient = jax.value_and_grad(lambda w: ((jdeconv.conv2d_transpose(x, w, None, 2) - target) ** 2).mean())(w)
    return loss, w - gradient / 8


def operands():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype("float32") for s in ((3, 3, 4, 4), (4, 8, 8, 4), (4, 16, 16, 4))]


def main(port, number, processes):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, number)
    assert jax.device_count() == 2 * processes
    mesh = jax.make_mesh((processes, 2), ("batch", "rows"), (AxisType.Auto,) * 2)
    placed = [
        jax.make_array_from_callback(v.shape, NamedSharding(mesh, spec), lambda at, v=v: v[at])
        for v, spec in zip(operands(), (P(), P("batch", "rows"), P("batch", "rows")), strict=True)
    ]
    loss, w = jax.jit(step, out_shardings=NamedSharding(mesh, P()))(*placed)
    print("numbers", float(loss), *np.asarray(jnp.ravel(w.addressable_data(0))).tolist())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
