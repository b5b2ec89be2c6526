"""The operator: one sum over (input, kernel, output), solved for one of the three, as one primitive.

    sum over n, g, i, o, positions p and taps t:
        input[n, p, g, i] * kernel[t, o, g, i] * output[n, p*stride + t*dilation - low, g, o]

Solved for the output it is the transposed convolution, for the input the strided convolution, for the kernel the
gradient of both in their kernel. A derivative of one solution is another, so each rule is written once.
"""

import functools
from typing import Any

import jax
import numpy as np

from .._errors import blames_caller, refusal
from .._formulations import METHODS, Engine, engine_for
from .._geometry import Geometry
from .._jax_compat import (
    BilinearPrimitive,
    Tracer,
    defbilinear,
    lowered,
    primitive_batchers,
    program_of,
    register_lowering,
    tpu_interpreted,
    varying,
    with_devices,
)
from .._jax_operations import jnp, lax
from .._plan.choose import AUTO, choose
from .._plan.problem import Problem
from . import partition

# The letters of each role's axes, `_` standing for the spatial ones. Every letter but g is in exactly two of the three.
LETTERS = {"input": "n_gi", "kernel": "_ogi", "output": "n_go"}
COMPUTES = {"output": "transpose_conv", "input": "input_grad", "kernel": "kernel_grad"}

transposed_convolution_p = BilinearPrimitive("transposed_convolution")


def solve(
    result: str, geometry: Geometry, *, dtype: Any, precision: Any = None, method: str = "auto", **operands: jax.Array
) -> jax.Array:
    """The role `result`, of type `dtype`, from the other two, given by name.

    Example:
      >>> from jdeconv._geometry import build
      >>> geometry = build((2,), (3,), (2,), (1,), "VALID")
      >>> x, w = jax.numpy.ones((1, 2, 1, 1)), jax.numpy.ones((3, 1, 1, 1))
      >>> solve("output", geometry, dtype=x.dtype, input=x, kernel=w).ravel()
      Array([1., 1., 2., 1., 1.], dtype=float32)
    """
    a, b = _equally_varying(*(operands[role] for role in _operands(result)))
    if method != AUTO:  # one that can't do this case says so now, not when it is lowered
        choose("*", "*", problem_of(a, b, geometry, result, dtype), method, METHODS)
    return transposed_convolution_p.bind(
        a, b, geometry=geometry, result=result, dtype=np.dtype(dtype), precision=precision, method=method
    )


def unfolded(operand: jax.Array, *given: jax.Array) -> jax.Array:
    """`operand`, made of one of the arrays that were given.

    Where a program's constants are all that was given, XLA would fold the operator, for up to a minute. A barrier keeps
    it from knowing this operand.
    """
    known = isinstance(operand, Tracer) and not any(isinstance(array, Tracer) for array in given)
    return lax.optimization_barrier(operand) if known else operand


def _operands(result: str) -> tuple[str, str]:
    first, second = (role for role in LETTERS if role != result)
    return first, second


def _axis(role: str, letter: str) -> int:
    """Where the letter stands among the role's axes, counted from the end that has no spatial axes between."""
    position = LETTERS[role].index(letter)
    return position if position < LETTERS[role].index("_") else position - len(LETTERS[role])


def _equally_varying(*operands: jax.Array) -> list[jax.Array]:
    """Under `shard_map`, makes both vary over the same mesh axes: the transpose of that is a gradient's psum."""
    axes = [varying(jax.typeof(operand)) for operand in operands]
    union = frozenset[str]().union(*axes)
    return [
        lax.pcast(operand, tuple(sorted(union - has)), to="varying") if union - has else operand
        for operand, has in zip(operands, axes, strict=True)
    ]


# Shape: each letter has the size that it has on an operand; spatial sizes are the geometry's.


def _sizes(a: Any, b: Any, result: str) -> dict[str, Any]:
    return {
        letter: operand.shape[_axis(role, letter)]
        for role, operand in zip(_operands(result), (a, b), strict=True)
        for letter in LETTERS[role].replace("_", "")
    }


def _shape(a: Any, b: Any, geometry: Geometry, result: str) -> tuple[Any, ...]:
    sizes = _sizes(a, b, result)
    before, after = LETTERS[result].split("_")
    spatial = getattr(geometry, result)
    return (*(sizes[letter] for letter in before), *spatial, *(sizes[letter] for letter in after))


def problem_of(a: Any, b: Any, geometry: Geometry, result: str, dtype: Any) -> Problem:
    """What the planner is told of an equation."""
    sizes = _sizes(a, b, result)
    with jax.numpy_dtype_promotion("standard"):
        wide = functools.reduce(jnp.promote_types, (a.dtype, b.dtype, dtype))
    return Problem(geometry, result, sizes["n"], sizes["g"], sizes["i"], sizes["o"], np.dtype(wide).name)


@transposed_convolution_p.def_flops
def _flops(a: Any, b: Any, *, geometry: Geometry, result: str, dtype: Any, **parameters: Any) -> Any:
    return problem_of(a, b, geometry, result, dtype).flops


@transposed_convolution_p.def_abstract_eval
def _abstract(a: Any, b: Any, *, geometry: Geometry, result: str, dtype: Any, precision: Any, method: str) -> Any:
    return a.update(
        shape=_shape(a, b, geometry, result),
        dtype=dtype,
        weak_type=False,
        sharding=a.sharding.update(spec=jax.P()),
    )


# Derivatives: the operand to solve for becomes the result; the cotangent takes the old result's place.


@blames_caller
def _transpose(
    wrt: int, cotangent: Any, a: Any, b: Any, *, geometry: Geometry, result: str, dtype: Any, **parameters: Any
) -> jax.Array:
    del dtype  # the cotangent has it; the result is of the operand's own
    roles, operands = _operands(result), (a, b)
    known = {result: cotangent, roles[1 - wrt]: operands[1 - wrt]}
    return solve(roles[wrt], geometry, dtype=operands[wrt].aval.dtype, **known, **parameters)


defbilinear(transposed_convolution_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))


# Batching: an axis on one operand joins the letter that this operand shares with the result; on both, it joins g.


def _batch(operands: Any, axes: Any, *, result: str, **parameters: Any) -> tuple[jax.Array, int]:
    roles = _operands(result)
    batched = [role for role, axis in zip(roles, axes, strict=True) if axis is not None]
    letter = (
        "g" if len(batched) == 2 else next(c for c in LETTERS[batched[0]] if c in LETTERS[result] and c not in "_g")
    )
    joined = [
        (operand, ()) if axis is None else _join(operand, axis, _axis(role, letter))
        for role, operand, axis in zip(roles, operands, axes, strict=True)
    ]
    (a, sizes_a), (b, sizes_b) = joined
    y = transposed_convolution_p.bind(a, b, result=result, **parameters)
    axis = _axis(result, letter) % y.ndim
    return y.reshape(*y.shape[:axis], *(sizes_a or sizes_b), *y.shape[axis + 1 :]), axis


def _join(operand: jax.Array, source: int, target: int) -> tuple[jax.Array, tuple[Any, Any]]:
    """One axis of `source` (outermost) and the axis that is at `target` without it; also the sizes of the two."""
    target %= operand.ndim - 1
    moved = jnp.moveaxis(operand, source, target)
    size, letter = moved.shape[target : target + 2]
    return moved.reshape(*moved.shape[:target], size * letter, *moved.shape[target + 2 :]), (size, letter)


primitive_batchers[transposed_convolution_p] = _batch


# Lowering: only here is the platform known, so here the formulation is chosen.


def _compute(
    platform: str,
    onednn: bool,
    a: jax.Array,
    b: jax.Array,
    *,
    geometry: Geometry,
    result: str,
    dtype: Any,
    precision: Any,
    method: str,
    engine: type[Engine] = Engine,
) -> jax.Array:
    shape = _shape(a, b, geometry, result)
    if geometry.empty or any(isinstance(size, int) and size == 0 for size in (*a.shape, *b.shape)):
        return lax.full(shape, 0, dtype)
    if not isinstance(groups := a.shape[-2], int):
        raise refusal(
            NotImplementedError,
            "vmap over both operands",
            f"{groups} examples",
            "each is a group of its own",
            "expected a known number",
            "Export one program for each number, or map over one operand.",
        )
    # Operands differ in type where a cotangent has the preferred type; the wider of the two loses nothing.
    with jax.numpy_dtype_promotion("standard"):
        common = jnp.promote_types(a.dtype, b.dtype)
    problem = problem_of(a, b, geometry, result, dtype)
    name = engine_for(problem) if onednn else "xla"
    choice = choose(platform, name, problem, method, METHODS)
    compute = getattr(METHODS[choice.method], COMPUTES[result])
    running = engine(precision, np.dtype(problem.dtype), platform, onednn=name != "xla")
    with jax.numpy_rank_promotion("allow"):  # inside, ranks differ on purpose
        return compute(a.astype(common), b.astype(common), geometry, running).astype(dtype)


def by_lax(engine: type[Engine], a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    """An equation's result by `jax.lax`'s operations, the same on every platform; `engine` runs its convolutions."""
    return _compute("other", False, a, b, **(parameters | {"method": "lax", "engine": engine}))


@blames_caller
def _lower(platform: str, context: Any, a: Any, b: Any, **parameters: Any) -> Any:
    program = program_of(context)
    devices, alone = program.devices, program.alone
    onednn = alone and platform == "cpu" and not program.exported
    # The rules hold for one device. A part for a TPU takes lax's program: no other was compiled there.
    if not alone or (platform == "tpu" and partition.inside()):
        platform = "other"
    # A kernel asked for by name may refuse; from inside XLA's partitioner that would not reach the caller.
    if devices > 1 and parameters["method"] != "pallas" and (known := with_devices(context)):
        result = parameters["result"]

        def solve_part(a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
            return transposed_convolution_p.bind(a, b, **(parameters | {"geometry": geometry}))

        context, stand_ins = known
        roles = _operands(result)
        split = partition.partitioned(solve_part, parameters["geometry"], result, roles, LETTERS, stand_ins)
        return lowered(split, context, a, b)
    compute = functools.partial(_compute, platform, onednn, **parameters)
    if not alone:
        compute = _gathering(compute, parameters["result"], program.mesh)
    interpreted = parameters["method"] == "pallas" and tpu_interpreted()
    return lowered(compute, context, a, b, interpreted=interpreted)


def _gathering(compute: Any, result: str, mesh: jax.sharding.AbstractMesh) -> Any:
    """`compute` of whole images, where XLA's partitioner alone would split it; batch and channels stay split."""

    def whole(images: jax.Array) -> jax.Array:
        free = jax.P.UNCONSTRAINED
        spec = jax.P(free, *(None,) * (images.ndim - 3), free, free)
        with jax.sharding.use_abstract_mesh(mesh):
            return lax.with_sharding_constraint(images, jax.sharding.NamedSharding(mesh, spec))

    def gathered(a: jax.Array, b: jax.Array) -> jax.Array:
        solved = compute(
            *(v if role == "kernel" else whole(v) for role, v in zip(_operands(result), (a, b), strict=True))
        )
        return solved if result == "kernel" else whole(solved)

    return gathered


PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
register_lowering(transposed_convolution_p, functools.partial(_lower, "other"))
for _name, _platform in PLATFORMS.items():
    register_lowering(transposed_convolution_p, functools.partial(_lower, _platform), platform=_name)


# Eager calls on one device compile the computation itself: a bind of the primitive would call itself where jit is off
# (jax.disable_jit, and jax_debug_nans once it finds one). Only its lowering knows of several devices.
_STATIC = ("geometry", "result", "dtype", "precision", "method")
_compiled = jax.jit(_compute, static_argnums=(0, 1), static_argnames=_STATIC)
_partitioned = jax.jit(
    lambda a, b, **parameters: transposed_convolution_p.bind(a, b, **parameters), static_argnames=_STATIC
)


@transposed_convolution_p.def_impl
def _eager(a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        # A tool evaluates a program equation by equation, inside a trace of its own. It gets operations of JAX, which
        # every transformation knows. Neither oneDNN's calls nor a TPU's kernels have derivatives.
        platform = PLATFORMS.get(_default_platform(), "other")
        return _compute("other" if platform == "tpu" else platform, False, a, b, **parameters)
    # jit moves what is not committed to a device to the default one.
    devices = {device for operand in (a, b) if getattr(operand, "committed", False) for device in operand.devices()}
    if len(devices) > 1 and not jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return _partitioned(a, b, **parameters)
    platform = next(iter(devices)).platform if devices else _default_platform()
    if len(devices) > 1:
        platform = "other"
    return _compiled(platform, platform == "cpu", a, b, **parameters)  # both call a GPU of either make "gpu"


def _default_platform() -> str:
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(device, str):
        device = jax.devices(device)[0]
    platform: str = device.platform if device else jax.default_backend()
    return platform
