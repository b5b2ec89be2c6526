"""All that is used of JAX beyond its public API. A release may move it; an error then names what is missing.

A public way, where there is one, is the second choice, because it is slower to import (`jax.extend` loads Pallas, 20 to
40 ms). What only makes errors and profiles more readable may be missing.
"""

import contextlib
import dataclasses
import functools
import importlib
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from ._errors import HERE
from ._jax_operations import lax

TESTED = "0.10.2 to 0.12.0.1"


def _missing(name: str) -> ImportError:
    return ImportError(
        f"JAX {jax.__version__}: it has no {name}; jdeconv expected that of JAX {TESTED}. "
        "Install one of these, or a jdeconv that knows this one."
    )


def _first(*names: str) -> Any:
    """The attribute under the first of these dotted names that this JAX has, or None."""
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
eval_jaxpr: Any = _needed("jax.core.eval_jaxpr")
defbilinear: Any = _needed("jax.interpreters.ad.defbilinear")
primitive_batchers: Any = _needed("jax.interpreters.batching.primitive_batchers")
lower_fun: Any = _needed("jax.interpreters.mlir.lower_fun")
register_lowering: Any = _needed("jax.interpreters.mlir.register_lowering")

# Profiles, compiled programs and JAX's own errors show the user's source lines, not this package's.
if _exclude := _first("jax._src.source_info_util.register_exclusion", "jax.extend.source_info_util.register_exclusion"):
    _exclude(HERE)


def setting(default: Any) -> Any:
    """A setting that is part of the key of JAX's caches of traced, lowered and compiled functions.

    `setting.value` is its value in this thread. `setting.set_global(value)` sets it for every thread, and
    `with setting(value):` for this one.
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


# Lowerings.


class Program(NamedTuple):
    """The program that is compiled, as a lowering's context describes it."""

    devices: int
    """How many devices XLA's partitioner splits the whole program over; 1 inside `shard_map`."""
    alone: bool
    """Whether the lowered equation runs on one device, so that XLA's partitioner doesn't split it."""
    exported: bool
    mesh: jax.sharding.AbstractMesh
    """The mesh whose axes XLA's partitioner splits over; one axis of all devices where the axes are not known yet."""


def program_of(context: Any) -> Program:
    """The program of the `LoweringRuleContext` that JAX hands to a lowering."""
    kinds = jax.sharding.AxisType
    try:
        module = context.module_context
        axes, exported = module.axis_context, bool(module.lowering_parameters.for_export)
        if not hasattr(axes, "manual_axes"):
            devices = axes.num_devices or 1
            mesh = jax.sharding.AbstractMesh((devices,), ("devices",), (kinds.Auto,))
            return Program(devices, devices == 1, exported, mesh)
        # Inside shard_map over some axes only, XLA's partitioner splits over the other axes.
        names = axes.mesh.axis_names
        split = tuple(kinds.Manual if axis in axes.manual_axes else kinds.Auto for axis in names)
        mesh = jax.sharding.AbstractMesh(axes.mesh.axis_sizes, names, split)
        return Program(1, set(axes.manual_axes) == set(names), exported, mesh)
    except AttributeError as error:
        raise _missing(f"context of lowerings with what is read there ({error})") from error


def with_devices(context: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """The context with devices for `custom_partitioning`, and these devices; None where that can't work.

    The program's own devices are not known yet. Only their number and order count, so any devices stand in for them.
    """
    config: Any = jax.config
    module = context.module_context
    where = module.axis_context
    # An exported program would hold a pointer into this process. A cached one would be found by the pointer, not by its
    # geometry.
    stored = config.jax_compilation_cache_dir and config.jax_enable_compilation_cache
    if module.lowering_parameters.for_export or stored or not config.jax_use_shardy_partitioner:
        return None
    try:
        devices = jax.devices(module.platforms[0])
    except RuntimeError:  # the platform is not here, and its compiler knows no custom_partitioning
        return None
    if len(devices) < where.num_devices:
        return None
    stand_ins = tuple(devices[: where.num_devices])
    where = dataclasses.replace(where, device_assignment=stand_ins)
    return context.replace(module_context=module.replace(axis_context=where)), stand_ins


def lowered(compute: Callable[..., jax.Array], context: Any, *operands: Any, interpreted: bool = False) -> Any:
    """Lowers `compute` on plain types: neither shardings nor varying axes are tracked, whatever mesh is set."""
    plain = [ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
    context = context.replace(avals_in=plain)
    device = jax.sharding.get_abstract_mesh().abstract_device  # Pallas asks for it where no real device is there
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        if interpreted:
            # Pallas's interpreter orders its callbacks by effects. The primitive has none, so these get new tokens.
            effects = jax.make_jaxpr(compute)(*plain).effects
            context = context.replace(tokens_in=_needed("jax.interpreters.mlir.TokenSet").create(effects))
        return lower_fun(compute, multiple_results=False)(context, *operands)


def tpu_interpreted() -> bool:
    """Whether Pallas's `force_tpu_interpret_mode()` is on, which is part of the key of JAX's caches."""
    state = _first("jax._src.config.pallas_tpu_interpret_mode_context_manager")
    return state is not None and state.value is not None


# The primitive, and its rules in the tables of JAX's tools.


class BilinearPrimitive(Primitive):  # type: ignore[misc]
    """A bilinear primitive that has rules in JAX's tools, whose modules load after this one or never.

    A tool's table of rules is a dictionary with primitives as keys, so a look-up asks for this primitive's hash. That
    adds the rule to every table loaded by then. So calls pay nothing for the tables, and a tool finds the rule even in
    a program that was traced before the tool was imported.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._flops: Any = None
        self._missing_in = dict(_TABLES)

    def def_flops(self, flops: Callable[..., Any]) -> Callable[..., Any]:
        """Registers the function that counts FLOPs, from the operands' avals and the parameters."""
        self._flops = flops
        return flops

    def __hash__(self) -> int:
        for name, (mark, add) in list(self._missing_in.items()):
            module = sys.modules.get(name)
            if hasattr(module, mark) and name in self._missing_in:
                self._missing_in.pop(name, None)  # first, because adding the rule asks for the hash too
                add(module, self)
        return super().__hash__()

    def series_product(self, values: Any, series: Any, **parameters: Any) -> tuple[Any, list[Any]]:
        """The result's Taylor coefficients from the operands' ones; the first of each is apart."""
        a, b = ([value, *terms] for value, terms in zip(values, series, strict=True))
        products = ([self.bind(a[j], b[k - j], **parameters) for j in range(k + 1)] for k in range(len(a)))
        first, *rest = (functools.reduce(operator.add, terms) for terms in products)
        return first, rest

    def roofline(self, result_type: Any, context: Any, *_: Any, **parameters: Any) -> Any:
        """FLOPs, and the bytes of operands and result, in the fields that the rule of `lax`'s convolution fills."""
        avals = (*context.avals_in, *context.avals_out)
        moved = sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)
        flops = self._flops(*context.avals_in, **parameters)
        return result_type(unfused_flops=flops, unfused_hbm_bytes=moved)


def _add_to_jet(module: Any, primitive: BilinearPrimitive) -> None:
    module.jet_rules.setdefault(primitive, primitive.series_product)


def _add_to_checkify(module: Any, primitive: BilinearPrimitive) -> None:
    module.error_checks.setdefault(primitive, functools.partial(module.nan_error_check, primitive))


def _add_to_roofline(module: Any, primitive: BilinearPrimitive) -> None:
    module.register_roofline(primitive)(functools.partial(primitive.roofline, module.RooflineResult))


# By the module of the table: an attribute that the module has once the table is there, and what adds the rule.
_TABLES: dict[str, tuple[str, Callable[[Any, BilinearPrimitive], None]]] = {
    "jax.experimental.jet": ("jet_rules", _add_to_jet),
    "jax._src.checkify": ("nan_error_check", _add_to_checkify),
    "jax.experimental.roofline.roofline": ("register_roofline", _add_to_roofline),
}


# Jaxprs: what `to_lax` changes, and `autotune` looks through.


def is_program(value: Any) -> bool:
    """Whether it is a jaxpr, with its constants (closed) or without."""
    return hasattr(value, "eqns") and hasattr(value, "replace")


def programs_in(value: Any) -> Iterator[Any]:
    """The programs in a parameter of an equation, also in tuples, lists and dictionaries."""
    if is_program(value):
        yield getattr(value, "jaxpr", value)
    elif isinstance(value, dict):
        yield from programs_in(list(value.values()))
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from programs_in(inner)


def split_by_hand(equation: Any) -> bool:
    """Whether it is a `shard_map` over all axes of its mesh: what is inside runs on one device."""
    parameters = equation.params
    if equation.primitive.name != "shard_map" or not {"mesh", "newly_manual_axes"} <= {*parameters}:
        return False
    return set(parameters["newly_manual_axes"]) == set(parameters["mesh"].axis_names)


def with_equations(program: Any, change: Callable[[Any], list[Any]]) -> Any:
    """The program with each equation replaced by the equations that `change` returns; itself if nothing changes."""
    inner = getattr(program, "jaxpr", program)
    changed = [equation for old in inner.eqns for equation in change(old)]
    if len(changed) == len(inner.eqns) and all(map(operator.is_, changed, inner.eqns)):
        return program
    inner = inner.replace(eqns=changed)
    return program.replace(jaxpr=inner) if hasattr(program, "jaxpr") else inner


def inlined(compute: Callable[..., jax.Array], equation: Any) -> list[Any]:
    """The equations of `compute` on the operands of `equation`, to replace it."""
    (result,) = equation.outvars

    def computed(*operands: jax.Array) -> jax.Array:
        y = compute(*operands)
        constant = varying(result.aval) - varying(jax.typeof(y))
        return lax.pcast(y, tuple(sorted(constant)), to="varying") if constant else y

    with equation.ctx.manager, _in_shard_map(varying(result.aval)):
        program = jax.make_jaxpr(computed)(*(operand.aval for operand in equation.invars)).jaxpr
    place = dict(zip([*program.invars, *program.outvars], [*equation.invars, result], strict=True))
    source = equation.source_info
    return [
        inner.replace(
            invars=[v if hasattr(v, "val") else place.get(v, v) for v in inner.invars],  # literals aren't hashable
            outvars=[place.get(v, v) for v in inner.outvars],
            source_info=source.replace(name_stack=source.name_stack + inner.source_info.name_stack),
        )
        for inner in program.eqns
    ]


@contextlib.contextmanager
def _in_shard_map(axes: frozenset[str]) -> Iterator[None]:
    """As inside `shard_map`, where values vary over these axes: only there are constants cast to vary."""
    if not axes:
        yield
        return
    sizes = jax.sharding.get_abstract_mesh().shape
    with (
        _needed("jax._src.core.extend_axis_env_nd")([(axis, sizes[axis]) for axis in axes]),
        _needed("jax._src.config._check_vma")(True),
    ):
        yield


# The parameters of an equation that are rules: some return programs, others compute.
_TRACED_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "transpose_thunk")
_COMPUTING_RULES = ("bwd", "rule")
_WITH_RULES = ("custom_jvp_call", "custom_vjp_call", "custom_lin", "custom_vmap_call", "linear_call")


def with_rules(
    equation: Any, of_result: Callable[[Any], Any], of_function: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> dict[str, Any]:
    """The changed rules among the parameters of `jax.custom_vjp` and its kin; of other equations, nothing.

    `of_result` changes what a rule returns that traces. `of_function` changes a rule that computes.
    """
    if equation.primitive.name not in _WITH_RULES:
        return {}

    def traced(rule: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: of_result(rule(*arguments))

    changes = {**dict.fromkeys(_TRACED_RULES, traced), **dict.fromkeys(_COMPUTING_RULES, of_function)}
    found = {name: _wrapped(equation.params[name], changes[name]) for name in changes if name in equation.params}
    if not found:
        raise _missing(f"rules of {equation.primitive.name} under any of the names {', '.join(changes)}")
    return found


def _wrapped(rule: Any, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    if not hasattr(rule, "call_wrapped"):
        return change(rule)
    wrap = _needed("jax._src.linear_util.wrap_init", "jax.extend.linear_util.wrap_init")
    return wrap(change(rule.call_wrapped), debug_info=rule.debug_info)
