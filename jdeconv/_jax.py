"""What is used of JAX beyond its public API, which a release may move: all of it here, and named where it is missing.

Where there is a public way it is the second choice, being slower to import (`jax.extend` loads Pallas, 20 to 40 ms);
what only makes errors and profiles more readable may be missing.
"""

import dataclasses
import functools
import importlib
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from ._errors import HERE

TESTED = "0.10.2 to 0.12.0.1"


def _missing(name: str) -> ImportError:
    return ImportError(
        f"JAX {jax.__version__}: it has no {name}; jdeconv expected that of JAX {TESTED}. "
        "Install one of these, or a jdeconv that knows this one."
    )


def _first(*names: str) -> Any:
    """What the first of these dotted names, of an attribute in a module, stands for."""
    return next(_found(names), None)


def _found(names: tuple[str, ...]) -> Iterator[Any]:
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            yield getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue


def _needed(*names: str) -> Any:
    found = _first(*names)
    if found is None:
        raise _missing(" or ".join(names))
    return found


Primitive: Any = type(_first("jax.lax.neg_p") or _needed("jax.extend.core.primitives.neg_p"))
ShapedArray: Any = _needed("jax.core.ShapedArray")
Tracer: Any = _needed("jax.core.Tracer")
defbilinear: Any = _needed("jax.interpreters.ad.defbilinear")
primitive_batchers: Any = _needed("jax.interpreters.batching.primitive_batchers")
lower_fun: Any = _needed("jax.interpreters.mlir.lower_fun")
register_lowering: Any = _needed("jax.interpreters.mlir.register_lowering")

# The source lines that profiles, compiled programs and JAX's own errors show: the user's, not this package's.
if _exclude := _first("jax._src.source_info_util.register_exclusion", "jax.extend.source_info_util.register_exclusion"):
    _exclude(HERE)


def setting(default: Any) -> Any:
    """A setting that is part of the key under which JAX keeps what it traced, lowered and compiled.

    `setting.value` is its value here, `setting.set_global(value)` sets it for every thread, and `with setting(value):`
    for this one.
    """
    made = _needed("jax.make_user_context")(default)
    for name in ("value", "set_global"):  # neither is documented
        if not hasattr(made, name):
            raise _missing(f"jax.make_user_context(...).{name}")
    return made


def varying(type_: Any) -> frozenset[str]:
    """The mesh axes over which values of this type vary under `shard_map`."""
    try:
        return frozenset(type_.manual_axis_type.varying)
    except AttributeError:
        raise _missing("jax.typeof(...).manual_axis_type.varying") from None


class Program(NamedTuple):
    """What a lowering's context says of the program that is compiled."""

    devices: int
    """Over which XLA's partitioner splits it."""
    alone: bool
    """Whether what is lowered runs on one device, so that XLA's partitioner doesn't split it."""
    exported: bool
    mesh: jax.sharding.AbstractMesh
    """The mesh over whose axes it splits; one axis of all devices stands for those that are not known yet."""


def program_of(context: Any) -> Program:
    """Of the `LoweringRuleContext` that JAX hands to a lowering."""
    kinds = jax.sharding.AxisType
    try:
        module = context.module_context
        axes, exported = module.axis_context, bool(module.lowering_parameters.for_export)
        if not hasattr(axes, "manual_axes"):
            devices = axes.num_devices or 1
            mesh = jax.sharding.AbstractMesh((devices,), ("devices",), (kinds.Auto,))
            return Program(devices, devices == 1, exported, mesh)
        # Under shard_map over some axes only, XLA's partitioner splits what is inside over the others.
        names = axes.mesh.axis_names
        split = tuple(kinds.Manual if axis in axes.manual_axes else kinds.Auto for axis in names)
        mesh = jax.sharding.AbstractMesh(axes.mesh.axis_sizes, names, split)
        return Program(1, set(axes.manual_axes) == set(names), exported, mesh)
    except AttributeError as error:
        raise _missing(f"context of lowerings with what is read there ({error})") from error


def with_devices(context: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """The lowering's context with devices for `custom_partitioning`, and these; None where it would not work.

    Their number and order alone count, so any devices stand for those of the program, which are not known yet.
    """
    config: Any = jax.config
    module = context.module_context
    where = module.axis_context
    # An exported program would hold a pointer to this process; a stored one is found again by one, not by its geometry.
    stored = config.jax_compilation_cache_dir and config.jax_enable_compilation_cache
    if module.lowering_parameters.for_export or stored or not config.jax_use_shardy_partitioner:
        return None
    try:
        devices = jax.devices(module.platforms[0])
    except RuntimeError:  # compiled for a platform that is not here, whose compiler knows no custom_partitioning
        return None
    if len(devices) < where.num_devices:
        return None
    stand_ins = tuple(devices[: where.num_devices])
    where = dataclasses.replace(where, device_assignment=stand_ins)
    return context.replace(module_context=module.replace(axis_context=where)), stand_ins


def lowered(compute: Callable[..., jax.Array], context: Any, *operands: Any, interpreted: bool = False) -> Any:
    """`compute` on plain types, whatever mesh the caller has set: neither shardings nor varying axes are tracked."""
    plain = [ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
    context = context.replace(avals_in=plain)
    device = jax.sharding.get_abstract_mesh().abstract_device  # Pallas asks for it where no such device is there
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        if interpreted:
            # Pallas's interpreter orders its callbacks by effects that the primitive has not; tokens of its own do.
            effects = jax.make_jaxpr(compute)(*plain).effects
            context = context.replace(tokens_in=_needed("jax.interpreters.mlir.TokenSet").create(effects))
        return lower_fun(compute, multiple_results=False)(context, *operands)


def jet_knows(primitive: Any) -> None:
    """Gives `jax.experimental.jet`, if it has been imported, its rule for a bilinear primitive."""
    rules = getattr(sys.modules.get("jax.experimental.jet"), "jet_rules", {})
    rules.setdefault(primitive, functools.partial(_product_of_series, primitive))


def _product_of_series(primitive: Any, values: Any, series: Any, **parameters: Any) -> tuple[Any, list[Any]]:
    a, b = ([value, *terms] for value, terms in zip(values, series, strict=True))  # their Taylor coefficients
    products = ([primitive.bind(a[j], b[k - j], **parameters) for j in range(k + 1)] for k in range(len(a)))
    first, *rest = (functools.reduce(operator.add, terms) for terms in products)
    return first, rest


def tpu_interpreted() -> bool:
    """Whether `force_tpu_interpret_mode()` of Pallas is on; JAX's caches of traced functions know of it."""
    state = _first("jax._src.config.pallas_tpu_interpret_mode_context_manager")
    return state is not None and state.value is not None
