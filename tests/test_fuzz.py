"""Everything drawn at once, legal or not: geometry, dtype, method, kind of array, transformation, x64, oneDNN.

`pytest -m fuzz --hypothesis-profile=long` draws 500 calls anew each time; an ordinary run a few.
"""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import peers
import pytest
from calls import calls
from cases import DTYPES, FUNCTIONS, Case, cases, refuses
from hypothesis import event, given
from hypothesis import strategies as st
from jax import export, lax
from refused import ROWS

import jdeconv
from jdeconv import _settings
from jdeconv._formulations import METHODS

pytestmark = pytest.mark.fuzz

tf = peers.peer("tensorflow")

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
    """One of two steps."""
    place = numbers[0] % 2

    def one(x, w):
        xs = jnp.stack([x, others[0]] if place == 0 else [others[0], x])
        return lax.scan(lambda _, x: (None, f(x, w)), None, xs)[1][place]

    return one


def axes_of(numbers, ndim):
    """Along which x and w are mapped, over both or one, and y."""
    x, w, y = (number % (2 * ndim) - ndim for number in numbers[1:4])
    return [(x, w), (x, None), (None, w)][numbers[0] % 3], y


def mapped(f, others, case, numbers):
    """One of two examples."""
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
    """To bytes and back; where the batch is not empty, for any batch."""
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in others]
    if numbers[0] % 2 and case.batch:
        (batch,) = export.symbolic_shape("b")
        shapes[0] = jax.ShapeDtypeStruct((batch, *others[0].shape[1:]), others[0].dtype)
    program = export.export(jax.jit(f), platforms=[["cpu"], ["cpu", "tpu"]][numbers[1] % 2])(*shapes)
    return export.deserialize(program.serialize(vjp_order=1)).call


WRAPS = {function.__name__: function for function in (jitted, rematerialised, scanned, mapped, exported)}


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
    """The oracle's; an operand may itself be a solution. Also how many roundings it is off at most."""
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


# One draw


@dataclasses.dataclass(frozen=True)
class Draw:
    case: Case
    off: tuple = (0, 0, 0)
    """Added to the output's spatial sizes, so that most of them are illegal."""
    claimed: int | None = None
    """Groups that `output_shape` asks for, if not the case's."""
    wrong: str | None = None
    """A row of refused.py, of which the arguments are taken."""
    method: str = "auto"
    forms: tuple = ("jax", "jax")
    wraps: tuple = ()
    derivative: str = "value"
    mode: str = "jit"
    x64: bool = False
    onednn: bool = True

    @property
    def asked(self):
        """The case as it is asked for; its `groups` may not divide its channels."""
        outs = tuple(max(out + more, 0) for out, more in zip(self.case.out_sizes, self.off, strict=False))
        asked = dataclasses.replace(self.case, out_sizes=outs)
        if self.claimed is None:
            return asked
        inputs = self.case.groups * self.case.group_inputs
        return dataclasses.replace(asked, groups=self.claimed, group_inputs=inputs // self.claimed)

    @property
    def legal(self):
        inputs = self.case.groups * self.case.group_inputs
        sizes = ((i, oracle.strided_size(out, *rest)) for i, out, *rest in self.asked.per_dimension())
        return self.wrong is None and inputs % self.asked.groups == 0 and all(i == found for i, found in sizes)


# Rows of refused.py that are wrong whatever the rest of the call is.
ALONE = {"padding", "strides", "dilations", "data_format", "method", "precision", "preferred_element_type"}
WRONG = [name for name, row in ROWS.items() if row.change.keys() <= ALONE and row.tf and row.function[4] == "2"]
SMALL = {1: (6, 6), 2: (4, 4), 3: (2, 3)}


@st.composite
def draws(draw):
    empty, dilated = draw(st.sampled_from([False, False, False, True])), draw(st.booleans())
    case = draw(cases((*DTYPES, "float32", "float32", "float64"), empty=empty, dilated=dilated, sizes=SMALL))
    if draw(st.integers(0, 24)) == 24:
        case = dataclasses.replace(case, group_outputs=0)
    x64 = draw(st.booleans()) or case.dtype in ("float64", "complex128")
    forms = forms_for(case, x64)
    numbers = st.tuples(*[st.integers(0, 59)] * 5)
    wraps = draw(st.lists(st.tuples(st.sampled_from([*WRAPS]), numbers), max_size=2))
    if case.dtype.startswith(
        "complex"
    ):  # which jax.checkpoint can't, here and there: "reduce_precision does not accept"
        wraps = [wrap for wrap in wraps if wrap[0] != "rematerialised"]
    wraps = [wrap for wrap in wraps if wrap[0] != "exported"] + [wrap for wrap in wraps if wrap[0] == "exported"][:1]
    if len(wraps) == 2 and wraps[1][0] == "exported":  # what is stacked in the other has a known batch
        wraps[1] = ("exported", (0, *wraps[1][1][1:]))
    derivatives = ["value"] if case.dtype == "int32" else ["value", *DERIVATIVES]
    if wraps and wraps[-1][0] == "exported":  # which JAX differentiates once, in reverse
        derivatives = [name for name in derivatives if name in ("value", "gradients")]
    if case.dtype not in ("float16", "bfloat16", "float32", "float64"):
        derivatives = [name for name in derivatives if name != "squares"]
    derivative = draw(st.sampled_from(derivatives))
    modes = ["jit"] * 6 + (["eager", "eager"] if wraps else ["eager", "eager", "eager", "disable_jit"])
    changed = draw(st.sampled_from(["no", "no", "no", "off", "off", "claimed", "wrong"]))
    wrong = draw(st.sampled_from(WRONG)) if changed == "wrong" and case.rank == 2 else None
    return Draw(
        case=dataclasses.replace(case, channels_first=case.channels_first and not wrong),  # the rows are channels last
        off=draw(st.tuples(*[st.integers(-2, 2)] * 3)) if changed == "off" else (0, 0, 0),
        claimed=draw(st.integers(1, 5)) if changed == "claimed" and case.group_outputs else None,
        wrong=wrong,
        method=draw(st.sampled_from(["auto", "auto", *METHODS])),
        forms=(draw(st.sampled_from(forms)), draw(st.sampled_from(forms))),
        wraps=tuple(wraps),
        derivative=derivative,
        mode=draw(st.sampled_from(modes)),
        x64=x64,
        onednn=draw(st.sampled_from([True, True, False])),
    )


def function_of(drawn):
    case = drawn.asked
    if any(name == "exported" for name, _ in drawn.wraps):
        case = dataclasses.replace(case, batch=-1)
    changed = ROWS[drawn.wrong].change if drawn.wrong else {}
    return functools.partial(FUNCTIONS[case.rank], **({"method": drawn.method} | case.arguments | changed))


def operands_of(drawn):
    """Of the sum and of its derivatives, channels last."""
    x, w, _ = drawn.case.arrays()
    first, second = (dataclasses.replace(drawn.asked, seed=drawn.case.seed + more) for more in (100, 200))
    return {"x": x, "w": w, "y": first.arrays()[2], "dx": first.arrays()[0], "dw": second.arrays()[1]}


@contextlib.contextmanager
def configured(drawn):
    with jax.enable_x64(drawn.x64), _settings.onednn(drawn.onednn):
        yield


def check_refusal(drawn):
    x, w, _ = drawn.case.arrays()
    f = function_of(drawn)
    with configured(drawn):
        x, w = (FORMS[form](v) for form, v in zip(drawn.forms, (drawn.case.to_format(x), w), strict=True))
        error = peers.refuses(lambda: (f if "list" in drawn.forms else jax.jit(f))(x, w))
    assert of_ours(error), f"{drawn}\n{error!r}"


def check_value(drawn):
    case, operands, terms = drawn.asked, operands_of(drawn), []
    arrays = {name: v if "w" in name else case.to_format(v) for name, v in operands.items()}
    f = function_of(drawn)

    def found(v):
        results, terms[:] = zip(*DERIVATIVES[drawn.derivative](f, v), strict=True)
        return results

    with configured(drawn):
        arrays |= {name: FORMS[form](arrays[name]) for form, name in zip(drawn.forms, "xw", strict=True)}
        if drawn.wraps or (drawn.mode, drawn.derivative) != ("eager", "value"):
            arrays = {name: jnp.asarray(v) for name, v in arrays.items()}
        for name, numbers in drawn.wraps:
            f = WRAPS[name](f, (arrays["dx"], arrays["dw"]), case, numbers)
        with jax.disable_jit(drawn.mode == "disable_jit"):
            results = (jax.jit(found) if drawn.mode == "jit" else found)(arrays)
    magnitudes = {name: np.abs(v) for name, v in operands.items()}
    for got, sums in zip(results, terms, strict=True):
        assert got.dtype == case.dtype, drawn
        got = np.asarray(got) if sums[0][0] == "w" else case.from_format(got)
        wants, roundings = zip(*(solved(case, operands, *one) for one in sums), strict=True)
        bound = sum(solved(case, magnitudes, *one)[0] for one in sums)
        case.check_one(got, sum(wants), bound, max(roundings) + len(sums) - 1, narrow_sums=True)


def check_tensorflow(drawn):
    """What TensorFlow accepts is legal, and nothing else."""
    case = drawn.asked
    compiled = case.groups > 1 or max(case.dilations) > 1 or case.channels_first
    sizes = (case.batch, *case.in_sizes, *case.out_sizes, case.group_inputs, case.group_outputs)
    # It skips checks where something is empty; its XLA, which takes 0.1 s, is asked now and then, where it knows all.
    if tf is None or drawn.wrong or case.dtype not in ("float32", "float64") or 0 in sizes:
        return
    if compiled and (case.rank != 2 or case.seed % 4):
        return
    if case.rank != 2 and not isinstance(case.padding, str):
        return
    x, w, _ = drawn.case.arrays()
    function = {1: tf.nn.conv1d_transpose, 2: tf.compat.v1.nn.conv2d_transpose, 3: tf.nn.conv3d_transpose}[case.rank]
    function = tf.function(function, jit_compile=True) if compiled else function
    theirs = peers.refuses(lambda: function(case.to_format(x), w, **case.arguments))
    event(f"TensorFlow {'refuses' if theirs else 'accepts'}")
    assert bool(theirs) != drawn.legal, f"{drawn}\n{theirs}"


@given(drawn=draws())
def test_everything_at_once(drawn):
    event(f"{drawn.derivative}, {drawn.mode}" if drawn.legal else "refused")
    check_tensorflow(drawn)
    if not drawn.legal:
        check_refusal(drawn)
    elif drawn.method == "auto" or not refuses(drawn.method, drawn.asked):
        check_value(drawn)
    else:  # a method that can't do one of the three results may do what is asked for
        error = peers.refuses(lambda: check_value(drawn))
        assert error is None or (isinstance(error, NotImplementedError) and of_ours(error)), f"{drawn}\n{error!r}"


@peers.needs(tf, "TensorFlow")
@given(call=calls())
def test_calls_as_anyone_might_write_them(call):
    theirs = peers.refuses(lambda: tf.compat.v1.nn.conv2d_transpose(**call))
    ours = peers.refuses(lambda: jdeconv.conv2d_transpose(**call))
    assert bool(ours) == bool(theirs), f"{call}\nTensorFlow: {theirs}\njdeconv: {ours}"
    event("refused" if ours else "accepted")
    if ours:
        assert of_ours(ours), ours
    else:
        wanted = tf.compat.v1.nn.conv2d_transpose(**call).numpy()
        np.testing.assert_allclose(jdeconv.conv2d_transpose(**call), wanted, rtol=1e-5, atol=1e-5)
