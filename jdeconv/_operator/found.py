"""Which operations a program holds: the problems of its operators, in programs within it too."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from .._dtypes import common_dtype
from .._jax_compat import programs_in, split_by_hand
from .._plan.choose import AUTO
from .._plan.tuning import Operation
from .planned import operation_of
from .primitive import problem_of, transposed_convolution_p


@dataclasses.dataclass(frozen=True)
class Found:
    """The distinct operations of a program that one device can time, and the other operators with the reason."""

    operations: tuple[Operation, ...]
    left_out: tuple[str, ...]


def operations_in(program: Any) -> Found:
    """The operations in a closed jaxpr."""
    operations: dict[Operation, None] = {}
    left_out: dict[str, None] = {}
    arrays = (*program.consts, *(variable.aval for variable in program.jaxpr.invars))
    alone = jax.sharding.get_abstract_mesh().size <= 1 and not any(map(_on_several, arrays))
    for equation, on_one in _equations(program.jaxpr, alone and not _splits(program.jaxpr)):
        a, b, parameters = *(operand.aval for operand in equation.invars), equation.params
        precision = parameters["precision"]
        problem = problem_of(a, b, parameters["geometry"], parameters["result"], parameters["dtype"])
        operation = operation_of(problem, common_dtype(a.dtype, b.dtype), parameters["dtype"], precision)
        sizes = (*a.shape, *b.shape, *equation.outvars[0].aval.shape)
        if problem.geometry.empty or any(isinstance(size, int) and size == 0 for size in sizes):
            continue  # the result is zeros
        if parameters["method"] != AUTO:
            left_out[f"{operation}: method={parameters['method']!r} was asked for"] = None
        elif not all(isinstance(size, int) for size in sizes):
            left_out[f"{operation}: symbolic sizes"] = None
        elif not on_one:
            left_out[f"{operation}: XLA splits the program over devices"] = None
        else:
            operations[operation] = None
    return Found(tuple(operations), tuple(left_out))


def _equations(program: Any, alone: bool) -> Iterator[tuple[Any, bool]]:
    """The operators of a program and of all programs within it, and whether each runs on one device."""
    for equation in program.eqns:
        if equation.primitive is transposed_convolution_p:
            yield equation, alone
        inside = alone or split_by_hand(equation)
        for inner in programs_in(list(equation.params.values())):
            yield from _equations(inner, inside)


def _splits(program: Any) -> bool:
    """Whether any equation asks for several devices, those inside a `shard_map` over all axes aside."""
    for equation in program.eqns:
        if split_by_hand(equation):
            continue
        if equation.primitive.name == "shard_map" or any(map(_asks_for_several, equation.params.values())):
            return True
        if any(map(_splits, programs_in(list(equation.params.values())))):
            return True
    return False


def _asks_for_several(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_asks_for_several, value))
    if isinstance(value, jax.sharding.Sharding):
        return value.num_devices > 1
    return isinstance(value, jax.sharding.Mesh | jax.sharding.AbstractMesh) and value.size > 1


def _on_several(array: Any) -> bool:
    """Whether an array, or the type of one, is on several devices."""
    sharding = getattr(array, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    return (mesh.size if mesh is not None else getattr(sharding, "num_devices", 1)) > 1
