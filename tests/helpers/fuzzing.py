"""What the fuzz puts around a function and its operands: kinds of arrays, transformations, derivatives, spellings."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from cases import FUNCTIONS
from jax import export, lax

# A refusal as _errors.py writes it: argument=value: problem; expected. Mend.
REFUSAL = re.compile(r"^\w+=.+: .+; (expected|reachable).+\. .+\.$", re.DOTALL)


def of_ours(error):
    return isinstance(error, (ValueError, TypeError, NotImplementedError)) and REFUSAL.match(str(error))


# Kinds of arrays


def _apart(x):
    """Every other element of a larger array, backwards."""
    wide = np.zeros([2 * size for size in x.shape], x.dtype)
    view = wide[(slice(None, None, -2),) * x.ndim]
    view[...] = x
    return view


def _unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    view = buffer[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _weak(x):
    return lax.convert_element_type(x, {"i": int, "f": float, "c": complex}[x.dtype.kind])


WIDER = {"float32": "float64", "complex64": "complex128"}  # of what JAX narrows again without x64
FORMS = {
    "jax": jnp.asarray,
    "NumPy": np.array,
    "Fortran": np.asfortranarray,
    "apart": _apart,
    "unaligned": _unaligned,
    "read-only": _read_only,
    "list": np.ndarray.tolist,
    "weak": _weak,
    "wider": lambda x: x.astype(WIDER[x.dtype.name]),
}


def forms_for(case, x64):
    dtype, sizes = case.dtype, (case.batch, *case.in_sizes, *case.kernel, case.group_inputs, case.group_outputs)
    default = dtype in (("float64", "complex128") if x64 else ("float32", "complex64", "int32"))
    unless = {"weak": not default, "list": x64 or not default or 0 in sizes, "wider": x64 or dtype not in WIDER}
    return [form for form in FORMS if not unless.get(form)]


# What leaves a function as it is. Each takes f, other operands (x, w) of the same shapes, and what was drawn for it.


def jitted(f, others, case, numbers):
    return jax.jit(f)


def rematerialised(f, others, case, numbers):
    return jax.checkpoint(f, policy=[None, jax.checkpoint_policies.everything_saveable][numbers[0] % 2])


def scanned(f, others, case, numbers):
    """The first of two steps of a scan."""
    place = numbers[0] % 2

    def one(x, w):
        xs = jnp.stack([x, others[0]] if place == 0 else [others[0], x])
        return lax.scan(lambda _, x: (None, f(x, w)), None, xs)[1][place]

    return one


def axes_of(numbers, ndim):
    """The axes along which x, w and y are mapped, over both operands or one."""
    x, w, y = (number % (2 * ndim) - ndim for number in numbers[1:4])
    return [(x, w), (x, None), (None, w)][numbers[0] % 3], y


def mapped(f, others, case, numbers):
    """The first of two mapped examples."""
    axes, out = axes_of(numbers, case.rank + 3)
    place = numbers[4] % 2

    def one(x, w):
        stacks = [
            v if axis is None else jnp.stack([v, other] if place == 0 else [other, v], axis)
            for v, other, axis in zip((x, w), others, axes, strict=True)
        ]
        return lax.index_in_dim(jax.vmap(f, axes, out)(*stacks), place, out, keepdims=False)

    return one


def exported(f, others, case, numbers):
    """To bytes and back; where nothing is empty, for any batch, or for sizes that are sums of variables."""
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in others]
    if sizes := symbolic_sizes(case, numbers):
        shapes[0] = jax.ShapeDtypeStruct(sizes, others[0].dtype)
    program = export.export(jax.jit(f), platforms=[["cpu"], ["cpu", "tpu", "cuda"]][numbers[1] % 2])(*shapes)
    return export.deserialize(program.serialize(vjp_order=1)).call


# Sizes of the input as sums: factors of its own variable and of the batch's, and a constant.
SUMS = [(1, 0, -1), (2, 1, -1), (1, 1, 0), (1, 0, 2), (2, 0, -1), (1, 0, 0)]


def is_symbolic(case, numbers):
    """'batch' for a variable, 'sums' for sums in all dimensions but the channels, else None."""
    return [None, "batch", "sums", "sums"][numbers[0] % 4] if 0 not in (case.batch, *case.in_sizes) else None


def symbolic_sizes(case, numbers):
    """The input's symbolic sizes, in the case's layout; None where all sizes are known."""
    kind = is_symbolic(case, numbers)
    if kind is None:
        return None
    batch, terms, least = case.batch, [], []
    for which, (name, size) in enumerate(zip("bhvd", (case.batch, *case.in_sizes), strict=False)):
        sums = [*SUMS[numbers[1 + which] % len(SUMS) :], (1, 0, 0)]
        own, others, constant = next(
            (own, others, constant)
            for own, others, constant in sums
            if not (name == "b" and others) and (value := size - others * batch - constant) > 0 and value % own == 0
        )
        value = (size - others * batch - constant) // own
        batch = value if name == "b" else batch
        terms.append(f"{own}*{name} + {others}*b {constant:+}" if others else f"{own}*{name} {constant:+}")
        least.append(f"{name} >= {min(value, 2)}")
    if kind == "batch":
        terms[0], terms[1:] = "b", map(str, case.in_sizes)
    channels = case.groups * case.group_inputs
    terms.insert(1 if case.channels_first else len(terms), str(channels))
    constraints = least if kind == "sums" and numbers[2] % 2 else ()
    return export.symbolic_shape(", ".join(terms), constraints=constraints)


WRAPS = {function.__name__: function for function in (jitted, rematerialised, scanned, mapped, exported)}


# Spellings: the same numbers, asked for in other ways.


def in_arrays(value):
    """Numbers as concrete JAX arrays, except pairs, which TensorFlow takes as a list."""
    nested = isinstance(value, (list, tuple)) and isinstance(value[0], (list, tuple))
    return [*map(in_arrays, value)] if nested else value if isinstance(value, str) else jnp.asarray(value)


def in_entries(value):
    """Numbers as tuples of concrete arrays, one for each entry."""
    return [*map(in_entries, value)] if isinstance(value, (list, tuple)) else in_arrays(value)


NUMBERS = {"Python": lambda value: value, "arrays": in_arrays, "entries": in_entries}


def spelt(case, numbers, sized_by_input, **options):
    """TensorFlow's function, its numbers given in one of these forms; symbolic output sizes in terms of the input's."""
    given = {name: NUMBERS[numbers](v) if name != "data_format" else v for name, v in case.arguments.items()} | options
    if not sized_by_input:
        return functools.partial(FUNCTIONS[case.rank], **given)

    def function(x, w):
        return FUNCTIONS[case.rank](x, w, **given | {"output_shape": output_shape(case, x)})

    return function


def output_shape(case, x):
    sizes = x.shape[2:] if case.channels_first else x.shape[1:-1]
    # In this order: `(i - 1) * s + ...` would be more terms than JAX compares.
    sizes = [size * s + (o - i * s) for size, (i, o, _, s, _, _) in zip(sizes, case.per_dimension(), strict=True)]
    channels = case.groups * case.group_outputs
    return (-1, channels, *sizes) if case.channels_first else (-1, *sizes, channels)


def by_lax(case, context):
    """lax's convolution of the dilated input, which `jdeconv.patch` routes, in that context."""
    rank, low = case.rank, case.geometry.low
    pads = [
        ((k - 1) * d - before, o - i * s + s - 1 + before)
        for before, (i, o, k, s, d, _) in zip(low, case.per_dimension(), strict=True)
    ]
    spatial = "DHW"[-rank:]
    images = f"NC{spatial}" if case.channels_first else f"N{spatial}C"
    options = dict(dimension_numbers=(images, f"{spatial}IO", images), feature_group_count=case.groups)

    def function(x, w):
        w = w.reshape(*case.kernel, case.group_outputs, case.groups, case.group_inputs)
        w = w.transpose(*range(rank), rank + 2, rank + 1, rank)[(slice(None, None, -1),) * rank]
        w = w.reshape(*case.kernel, case.group_inputs, case.groups * case.group_outputs)
        with context():
            return lax.conv_general_dilated(x, w, (1,) * rank, pads, case.strides, case.dilations, **options)

    return function


# Derivatives: pairs of what is found and the terms that it is the sum of, each a solution for x, w or y by name. The
# operands are named x, w, y, and those of tangents and second derivatives dx, dw, dy.


def value(f, v):
    return [(f(v["x"], v["w"]), [("y", "x", "w")])]


def gradients(f, v):
    y, pull = jax.vjp(f, v["x"], v["w"])
    x, w = pull(v["y"])
    return [(y, [("y", "x", "w")]), (x, [("x", "w", "y")]), (w, [("w", "x", "y")])]


def tangents(f, v):
    y, dy = jax.jvp(f, (v["x"], v["w"]), (v["dx"], v["dw"]))
    return [(y, [("y", "x", "w")]), (dy, [("y", "dx", "w"), ("y", "x", "dw")])]


def linear_transposes(f, v):
    (x,) = jax.linear_transpose(lambda x: f(x, v["w"]), v["x"])(v["y"])
    (w,) = jax.linear_transpose(lambda w: f(v["x"], w), v["w"])(v["y"])
    return [(x, [("x", "w", "y")]), (w, [("w", "x", "y")])]


def second_by_x(f, v):
    """The derivative of a gradient of x, which is a sum over w and y."""
    w, y = jax.vjp(lambda w, y: jax.vjp(f, v["x"], w)[1](y)[0], v["w"], v["y"])[1](v["dx"])
    return [(w, [("w", "dx", "y")]), (y, [("y", "dx", "w")])]


def second_by_w(f, v):
    x, y = jax.vjp(lambda x, y: jax.vjp(f, x, v["w"])[1](y)[1], v["x"], v["y"])[1](v["dw"])
    return [(x, [("x", "dw", "y")]), (y, [("y", "x", "dw")])]


def forward_over_reverse(f, v):
    both = lambda x, w: jax.vjp(f, x, w)[1](v["y"])  # noqa: E731
    (x, w), (dx, dw) = jax.jvp(both, (v["x"], v["w"]), (v["dx"], v["dw"]))
    return [(x, [("x", "w", "y")]), (w, [("w", "x", "y")]), (dx, [("x", "dw", "y")]), (dw, [("w", "dx", "y")])]


def squares(f, v):
    """The gradient of half the sum of y**2 is a sum over y itself; its tangent over that of dx."""
    half = lambda x: (f(x, v["w"]) ** 2).sum() / 2  # noqa: E731
    x, dx = jax.jvp(jax.grad(half), (v["x"],), (v["dx"],))
    return [(x, [("x", "w", ("y", "x", "w"))]), (dx, [("x", "w", ("y", "dx", "w"))])]


DERIVATIVES = {
    function.__name__: function
    for function in (
        value, gradients, tangents, linear_transposes, second_by_x, second_by_w, forward_over_reverse, squares
    )
}  # fmt: skip


def solved(case, operands, result, a, b):
    """The oracle's solution, and how many roundings it is off at most; an operand may itself be a solution."""
    solve = {"y": oracle.transpose_conv, "x": oracle.input_grad, "w": oracle.kernel_grad}[result]
    roundings = case.terms["yxw".index(result)] + 1
    arrays = []
    for operand in (a, b):
        if isinstance(operand, tuple):
            array, more = solved(case, operands, *operand)
            roundings += more + 1
        else:
            array = operands[operand]
        arrays.append(array)
    return solve(case, *arrays), roundings
