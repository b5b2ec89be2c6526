"""Every public function by name: how a row of refusals calls it, and which arguments it has."""

import importlib
import inspect

import jax
import numpy as np
import pytest

import jdeconv


def linen(output_shape=None, **options):
    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3), **options)
    return layer.init(jax.random.key(0), np.zeros((1, 5, 6, 4), np.float32), output_shape=output_shape)


def nnx(output_shape=None, **options):
    from flax import nnx

    layer = jdeconv.nnx.ConvTranspose(4, 6, (3, 2), (2, 3), rngs=nnx.Rngs(0), **options)
    return layer(np.zeros((1, 5, 6, 4), np.float32), output_shape=output_shape)


def equinox(x, output_shape=None, **options):
    layer = jdeconv.equinox.ConvTranspose2d(3, 4, 3, 2, key=jax.random.key(0), **options)
    return layer(x, output_shape=output_shape)


def initializer(name):
    """The factory's function called at once."""

    def call(key=None, shape=(), dtype=np.float32, **options):
        return getattr(jdeconv.initializers, name)(**options)(key, shape, dtype)

    return call


FUNCTIONS = {
    "linen.ConvTranspose": linen,
    "nnx.ConvTranspose": nnx,
    "equinox.ConvTranspose2d": equinox,
    **{f"initializers.{name}": initializer(name) for name in ("bilinear", "bicubic", "icnr")},
}
LAYERS = {"linen.ConvTranspose": "flax", "nnx.ConvTranspose": "flax", "equinox.ConvTranspose2d": "equinox"}


def function_of(name):
    if name in FUNCTIONS:
        if needed := LAYERS.get(name):
            pytest.importorskip(needed)
        return FUNCTIONS[name]
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"jdeconv.{module}") if module else jdeconv, function)


def public():
    """Name and arguments of every function that the package offers beyond other libraries' own arguments."""
    frameworks = {layer.partition(".")[0] for layer in LAYERS}  # modules that load one, which may be absent
    for name in {*dir(jdeconv)} - frameworks:
        if callable(value := getattr(jdeconv, name)) and not inspect.isclass(value) and not name.startswith("_"):
            yield name, set(inspect.signature(value).parameters)
    for module in ("torch", "onnx", "keras", "lax", "convert", "initializers"):
        found = importlib.import_module(f"jdeconv.{module}")
        for name, value in vars(found).items():
            if inspect.isfunction(value) and value.__module__ == found.__name__ and name[0] != "_":
                drawn = {"key", "shape", "dtype"} if module == "initializers" else set()
                yield f"{module}.{name}", {*inspect.signature(value).parameters, *drawn}
    for layer in ("linen.ConvTranspose", "nnx.ConvTranspose"):
        yield layer, {"output_shape", "feature_group_count", "method"}
    yield "equinox.ConvTranspose2d", {"x", "output_shape", "method"}
