"""How JAX compiles the primitive. The platform is known only here, so the formulation is chosen here."""

import functools
from typing import Any

import jax

from .._dtypes import common_dtype
from .._engine.engine import ONEDNN_DTYPES, Engine
from .._engine.untested import untested, warn
from .._errors import blames_caller, refusal
from .._formulations import METHODS
from .._geometry import Geometry
from .._jax_compat import Tracer, lowered, program_of, register_lowering, tpu_interpreted, with_devices
from .._jax_operations import lax
from .._plan.choose import Choice, choose
from .._plan.engine_kind import EngineKind
from .._plan.tuning import Measurements
from .partition import partitioned
from .planned import operation_of, planned, tunings_in_use
from .primitive import operand_roles, problem_of, result_shape, transposed_convolution_p

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
"""The planner's names of JAX's platforms. All else is 'other': other platforms, and what XLA's partitioner splits."""

CONVOLUTIONS = {"lax", "phase"}
"""The formulations that are made of convolutions."""


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
    tunings: tuple[Measurements, ...] = (),
    portable: bool = False,
) -> jax.Array:
    """The result by the formulation that is chosen for `platform`, oneDNN being among the choices if `onednn`.

    `planned` says what `tunings` and `portable` are.
    """
    if geometry.empty or any(isinstance(size, int) and size == 0 for size in (*a.shape, *b.shape)):
        return lax.full(result_shape(a, b, geometry, result), 0, dtype)
    if not isinstance(groups := a.shape[-2], int):
        raise refusal(
            NotImplementedError,
            "vmap over both operands",
            f"{groups} examples",
            "each is a group of its own",
            "expected a known number",
            "Export one program for each number, or map over one operand.",
        )
    # A cotangent has the preferred type, so operands may differ. The wider of the two types loses nothing.
    common = common_dtype(a.dtype, b.dtype)
    operation = operation_of(problem_of(a, b, geometry, result, dtype), common, dtype, precision)
    choice = planned(platform, onednn, operation, method, tunings, portable)
    return by_choice(choice, platform, a.astype(common), b.astype(common), geometry, result, dtype, precision, engine)


def by_choice(
    choice: Choice,
    platform: str,
    a: jax.Array,
    b: jax.Array,
    geometry: Geometry,
    result: str,
    dtype: Any,
    precision: Any,
    engine: type[Engine] = Engine,
) -> jax.Array:
    """The result in the chosen way, of operands of one dtype."""
    compute = METHODS[choice.method].VARIANTS[result][choice.variant]
    wide = common_dtype(a.dtype, dtype)
    running = engine(precision, wide, platform, choice.engine.onednn)
    with jax.numpy_rank_promotion("allow"):  # formulations broadcast on purpose
        return compute(a, b, geometry, running).astype(dtype)


def by_lax(engine: type[Engine], a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    """An equation's result by `jax.lax`'s operations, the same on every platform; `engine` runs its convolutions."""
    return _compute("other", False, a, b, **(parameters | {"method": "lax", "engine": engine}))


def _warn_if_untested(a: Any, b: Any, **parameters: Any) -> None:
    """A warning if only jaxlib's version keeps oneDNN from this equation's convolutions on CPU.

    It is not given in `_compute`, which XLA's partitioner may run: where it is an error, that would reach nobody.
    """
    if not untested():
        return
    problem = problem_of(a, b, parameters["geometry"], parameters["result"], parameters["dtype"])
    if problem.dtype not in ONEDNN_DTYPES or parameters["geometry"].empty:
        return
    if choose("cpu", EngineKind(onednn=True), problem, parameters["method"], METHODS).method in CONVOLUTIONS:
        warn()


# Compiled programs.


@blames_caller
def _lower(platform: str, context: Any, a: Any, b: Any, **parameters: Any) -> Any:
    program = program_of(context)
    pallas = parameters["method"] == "pallas"
    if platform == "cpu" and not program.exported:
        _warn_if_untested(*context.avals_in, **parameters)
    # A Pallas kernel may refuse, and a refusal inside XLA's partitioner would not reach the caller.
    if program.devices > 1 and not pallas and (known := with_devices(context)):
        context, devices = known
        # A TPU's part takes method 'lax', variant 'plain': nothing else was compiled in parts.
        compute = functools.partial(
            _compute,
            "other" if platform == "tpu" else platform,
            platform == "cpu",
            tunings=_tunings_on("other" if platform == "tpu" else platform),
            portable=True,
        )
        return lowered(partitioned(compute, devices, **parameters), context, a, b)
    if program.alone:
        onednn = platform == "cpu" and not program.exported
        tunings = _tunings_on(platform)
        compute = functools.partial(
            _compute, platform, onednn, tunings=tunings, portable=program.exported, **parameters
        )
    else:  # the rules hold for one device
        compute = functools.partial(_compute, "other", False, **parameters)
        compute = _gathering(compute, parameters["result"], program.mesh)
    return lowered(compute, context, a, b, interpreted=pallas and tpu_interpreted())


def _tunings_on(platform: str) -> tuple[Measurements, ...]:
    """The tunings in use, which a partition's own thread would not know; none where nothing is measured."""
    return () if platform == "other" else tunings_in_use()


def _gathering(compute: Any, result: str, mesh: jax.sharding.AbstractMesh) -> Any:
    """`compute` on whole images, because XLA's own partitioner is wrong about split ones. Other axes stay split."""

    def whole(images: jax.Array) -> jax.Array:
        free = jax.P.UNCONSTRAINED
        spec = jax.P(free, *(None,) * (images.ndim - 3), free, free)
        with jax.sharding.use_abstract_mesh(mesh):
            return lax.with_sharding_constraint(images, jax.sharding.NamedSharding(mesh, spec))

    def gathered(a: jax.Array, b: jax.Array) -> jax.Array:
        roles = operand_roles(result)
        solved = compute(*(v if role == "kernel" else whole(v) for role, v in zip(roles, (a, b), strict=True)))
        return solved if result == "kernel" else whole(solved)

    return gathered


register_lowering(transposed_convolution_p, functools.partial(_lower, "other"))
for _name, _platform in PLATFORMS.items():
    register_lowering(transposed_convolution_p, functools.partial(_lower, _platform), platform=_name)


# Eager calls. On one device they compile the computation itself: where jit is off (jax.disable_jit, and jax_debug_nans
# once it finds a NaN), binding the primitive would call itself. On several devices its lowering is needed.

_STATIC = ("geometry", "result", "dtype", "precision", "method")
_compiled = jax.jit(_compute, static_argnums=(0, 1), static_argnames=(*_STATIC, "tunings"))
_partitioned = jax.jit(
    lambda a, b, **parameters: transposed_convolution_p.bind(a, b, **parameters), static_argnames=_STATIC
)


@transposed_convolution_p.def_impl
def _eager(a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        # A tool evaluates a program equation by equation, inside a trace of its own. It gets operations of JAX, which
        # every transformation knows: neither oneDNN's calls nor a TPU's kernels have derivatives.
        platform = _default_platform()
        return _compute("other" if platform == "tpu" else platform, False, a, b, **parameters)
    # jit moves what is not committed to a device to the default one.
    devices = {device for operand in (a, b) if getattr(operand, "committed", False) for device in operand.devices()}
    if len(devices) > 1 and not jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return _partitioned(a, b, **parameters)
    platform = named_by_planner(next(iter(devices)).platform) if devices else _default_platform()
    if len(devices) > 1:
        platform = "other"
    if platform == "cpu":
        _warn_if_untested(a, b, **parameters)
    return _compiled(platform, platform == "cpu", a, b, tunings=_tunings_on(platform), **parameters)


def _default_platform() -> str:
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(device, str):
        device = jax.devices(device)[0]
    return named_by_planner(device.platform if device else jax.default_backend())


def named_by_planner(platform: str) -> str:
    """The planner's name of a device's platform: a device calls a GPU of either make 'gpu'."""
    return platform if platform in PLATFORMS.values() else "other"
