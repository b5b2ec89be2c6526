"""Everything drawn at once, legal or not: geometry, dtype, method, kind of array, transformation, x64, oneDNN, export
for symbolic sizes, numbers in concrete arrays, an interceptor of `jax.lax`, lax's own function through `jdeconv.patch`.

`pytest -m fuzz --hypothesis-profile=long` draws 500 calls anew each time; an ordinary run a few.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import peers
import pytest
from calls import calls
from cases import DTYPES, Case, cases, refuses
from fuzzing import DERIVATIVES, FORMS, NUMBERS, WRAPS, by_lax, forms_for, is_symbolic, of_ours, solved, spelt
from hypothesis import event, given
from hypothesis import strategies as st
from interceptors import doubling
from refused.tensorflow import ROWS

import jdeconv
from jdeconv import _settings
from jdeconv._formulations import METHODS

pytestmark = pytest.mark.fuzz

tf = peers.peer("tensorflow")

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
    numbers: str = "Python"
    spelling: str = "TensorFlow's"
    """Whose function is called: lax's is under `jdeconv.patch` where it is 'patched'."""
    interceptor: str = "none"
    """In `jax.lax` and `jax.numpy` for the time of the call, or of an earlier one alone."""

    @property
    def symbolic(self):
        """Which of the input's sizes the function knows only as sums of variables."""
        return next((is_symbolic(self.case, drawn) for name, drawn in self.wraps if name == "exported"), None)

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
    sizes = case.batch, *case.in_sizes, *case.out_sizes, case.group_inputs, case.group_outputs
    patched = changed == "no" and max(case.strides) > 1 and 0 not in sizes and draw(st.integers(0, 4)) == 4
    sums = any(name == "exported" and is_symbolic(case, drawn) == "sums" for name, drawn in wraps)
    # What `patch` leaves to lax is doubled by right.
    interceptors = ["none"] * 3 + (["during", "before"] if not (patched and sums) else [])
    return Draw(
        case=dataclasses.replace(case, channels_first=case.channels_first and not wrong),  # the rows are channels last
        off=draw(st.tuples(*[st.integers(-2, 2)] * 3)) if changed == "off" else (0, 0, 0),
        claimed=draw(st.integers(1, 5)) if changed == "claimed" and case.group_outputs else None,
        wrong=wrong,
        method="auto" if patched else draw(st.sampled_from(["auto", "auto", *METHODS])),
        forms=("jax", "jax") if patched else (draw(st.sampled_from(forms)), draw(st.sampled_from(forms))),
        wraps=tuple(wraps),
        derivative=derivative,
        mode=draw(st.sampled_from(modes)),
        x64=x64,
        onednn=draw(st.sampled_from([True, True, False])),
        numbers=draw(st.sampled_from(["Python", *NUMBERS])),
        spelling="patched" if patched else "TensorFlow's",
        interceptor=draw(st.sampled_from(interceptors)),
    )


def function_of(drawn):
    case = drawn.asked
    if drawn.spelling != "TensorFlow's":
        return by_lax(case, jdeconv.patch if drawn.spelling == "patched" else contextlib.nullcontext)
    if any(name == "exported" for name, _ in drawn.wraps):
        case = dataclasses.replace(case, batch=-1)
    changed = ROWS[drawn.wrong].change if drawn.wrong else {}
    sized_by_input = drawn.legal and drawn.symbolic == "sums"
    return spelt(case, drawn.numbers, sized_by_input, **{"method": drawn.method} | changed)


def operands_of(drawn):
    """The operands of the sum and of its derivatives, channels last."""
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
            with doubling() if drawn.interceptor != "none" else contextlib.nullcontext():
                f = WRAPS[name](f, (arrays["dx"], arrays["dw"]), case, numbers)
        program = jax.jit(found) if drawn.mode == "jit" else found
        with jax.disable_jit(drawn.mode == "disable_jit"):
            if drawn.interceptor != "none":
                with doubling():
                    results = program(arrays)
            if drawn.interceptor != "during":
                results = program(arrays)
    magnitudes = {name: np.abs(v) for name, v in operands.items()}
    for got, sums in zip(results, terms, strict=True):
        assert got.dtype == case.dtype, drawn
        got = np.asarray(got) if sums[0][0] == "w" else case.from_format(got)
        wants, roundings = zip(*(solved(case, operands, *one) for one in sums), strict=True)
        bound = sum(solved(case, magnitudes, *one)[0] for one in sums)
        case.check_one(got, sum(wants), bound, max(roundings) + len(sums) - 1, narrow_sums=True)


def check_tensorflow(drawn):
    """TensorFlow accepts what is legal, and nothing else."""
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


def may_be_refused(drawn, error):
    """What may be refused although it is legal: sizes that can't be compared, a method that can't do one result,
    what lax can't do.
    """
    if drawn.spelling == "patched" and drawn.symbolic == "sums":
        return bool(peers.refuses(lambda: check_value(dataclasses.replace(drawn, spelling="lax's"))))
    undecided = drawn.symbolic == "sums" and "it can't be told whether" in str(error)
    unable = drawn.method != "auto" and refuses(drawn.method, drawn.asked) and "method=" in str(error)
    return of_ours(error) and (undecided or unable)


@given(drawn=draws())
def test_everything_at_once(drawn):
    event(f"{drawn.derivative}, {drawn.mode}" if drawn.legal else "refused")
    check_tensorflow(drawn)
    if not drawn.legal:
        check_refusal(drawn)
    elif error := peers.refuses(lambda: check_value(drawn)):
        if not may_be_refused(drawn, error):
            raise error
        event("legal, but refused")


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
