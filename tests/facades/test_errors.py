"""Every public function: wrong arguments are refused with the whole message, in four parts, at the user's line."""

import contextlib
import gc
import inspect
import re
import traceback
import weakref

import jax
import numpy as np
import pytest
from public_functions import function_of, public
from refused import tensorflow
from refused.public import CALLS, GOOD, MESSAGES, Traced

import jdeconv
from jdeconv._errors import HERE, blames_caller, refusal

FOUR_PARTS = re.compile(
    r"(?:ValueError|TypeError|NotImplementedError): "
    r"(?P<argument>[\w ]+)=(?P<received>.+): (?P<problem>\S.*); "
    r"(?P<expected>(?:expected|reachable:) \S.*)\. (?P<mend>[A-Z].*\.)"
)


def run(function, call):
    traced = {name: value.value for name, value in call.items() if isinstance(value, Traced)}
    known = {name: value for name, value in call.items() if name not in traced}
    return jax.eval_shape(lambda traced: function(**known, **traced), traced) if traced else function(**known)


def refused_as(function, call):
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as caught:
        run(function, call)
    assert "refused_by_jdeconv" in vars(caught.value)  # and no accident of the same kind
    return f"{type(caught.value).__name__}: {caught.value}".split("\n")[0]  # Flax adds lines of its own


@pytest.mark.parametrize("name", CALLS)
def test_refused_with_the_whole_message(name):
    function, change = CALLS[name]
    assert refused_as(function_of(function), {**GOOD[function], **change}) == MESSAGES[name]


TRACEABLE = [name for name, (function, _) in CALLS.items() if function.split(".")[0] in ("torch", "onnx", "keras")]


@pytest.mark.parametrize("name", [name for name in TRACEABLE if "int64" not in name and "of objects" not in name])
def test_refused_alike_when_traced(name):
    """The same message where only the operands' types are known."""
    function, change = CALLS[name]
    call = {**GOOD[function], **change}
    floats = {k: Traced(v) for k, v in call.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.ndim > 2}
    assert refused_as(function_of(function), {**call, **floats}) == MESSAGES[name]


def test_every_message_has_a_row():
    assert list(MESSAGES) == list(CALLS)


@pytest.mark.parametrize("messages", [MESSAGES, tensorflow.MESSAGES])
def test_every_message_has_four_parts(messages):
    assert [m for m in messages.values() if not FOUR_PARTS.fullmatch(m)] == []


# Public functions and arguments, found by looking: nothing that is new goes without a row.

# A key that isn't used; the arguments of the function that is measured.
FREE = {(f"initializers.{name}", "key") for name in ("bilinear", "bicubic")}
FREE |= {("autotune", "args"), ("autotune", "kwargs")}


def function_of_lax(name):
    return getattr(jax.lax, name.removeprefix("lax."))


# Functions of jax.lax's own arguments, which jax.lax refuses itself; a wrong value of each.
OF_LAX = ("lax.conv_general_dilated", "lax.conv", "lax.conv_with_general_padding")
REFUSED_BY_LAX = {
    (name, argument) for name in OF_LAX for argument in inspect.signature(function_of_lax(name)).parameters
}
WRONG = dict(lhs=None, rhs=None, window_strides=2, padding=1, lhs_dilation=(2,), rhs_dilation=2,
             dimension_numbers="NCHW", feature_group_count=3, batch_group_count=3, precision="exact",
             preferred_element_type="int32", out_sharding="batch")  # fmt: skip


def test_every_argument_of_every_public_function_has_a_row():
    blamed = {(function, FOUR_PARTS.fullmatch(MESSAGES[name])["argument"]) for name, (function, _) in CALLS.items()}
    blamed |= {
        (row.function, FOUR_PARTS.fullmatch(tensorflow.MESSAGES[name])["argument"])
        for name, row in tensorflow.ROWS.items()
    }
    arguments = {(name, argument) for name, arguments in public() for argument in arguments}
    assert arguments - blamed - FREE - REFUSED_BY_LAX == set()


@pytest.mark.parametrize(("name", "argument"), sorted(REFUSED_BY_LAX))
def test_refused_in_the_words_of_jax_lax(name, argument):
    """Type and text of the error are those of the function of the same name in jax.lax."""
    errors = []
    for function in (function_of(name), function_of_lax(name)):
        call = {**GOOD["lax.conv_general_dilated"], "lhs_dilation": None, "rhs_dilation": None}
        known = inspect.signature(function).parameters
        call = {key: value for key, value in call.items() if key in known}
        with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
            jax.eval_shape(lambda f=function, call=call: f(**{**call, argument: WRONG[argument]}))
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


# Where the traceback ends.

x, w = np.zeros((1, 4, 4, 2), np.float32), np.zeros((3, 3, 3, 2), np.float32)


def frames(call):
    """The functions in the traceback of what the call raises, with their files."""
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as caught:
        call()
    return [(frame.filename, frame.name) for frame in traceback.extract_tb(caught.value.__traceback__)]


def wrong(x, w=w):
    return jdeconv.conv2d_transpose(x, w, (1, 9, 9, 3), 2).sum()


def too_many_terms(x, w):
    return jdeconv.conv2d_transpose(x, w, None, w.shape[:2], method="taps").sum()


AT_TRACE_TIME = {
    "eager": (lambda: wrong(x), "wrong"),
    "jit": (lambda: jax.jit(wrong)(x), "wrong"),
    "grad": (lambda: jax.grad(wrong)(x), "wrong"),
    "vmap of grad of jit": (lambda: jax.vmap(jax.grad(jax.jit(wrong)))(x[None]), "wrong"),
    "scan": (lambda: jax.lax.scan(lambda c, _: (wrong(x), None), 0.0, length=2), "wrong"),
    "torch": (lambda: jdeconv.torch.conv_transpose2d(x, w, stride=0), "<lambda>"),
    "lax": (lambda: jdeconv.lax.conv_transpose(x, w, 2, "SAME"), "<lambda>"),
    "output_sizes": (lambda: jdeconv.output_sizes(5, 3, 0), "<lambda>"),
    "an initializer": (lambda: jdeconv.initializers.bilinear()(None, (5, 5, 1, 1)), "<lambda>"),
    "a method": (lambda: too_many_terms(np.zeros((1, 2, 2, 4097)), np.zeros((1, 1, 1, 4097))), "too_many_terms"),
    "a signature": (lambda: jdeconv.conv2d_transpose(x, w, stride=2), "<lambda>"),
}


@pytest.mark.parametrize("name", AT_TRACE_TIME)
def test_ends_in_the_users_line(name):
    call, last = AT_TRACE_TIME[name]
    found = frames(call)
    assert found[-1] == (__file__, last)
    assert [file for file, _ in found if file.startswith(HERE)] == []


def test_ends_in_the_users_line_in_the_backward_pass():
    """A method that can do the forward pass and not the gradient, which JAX asks for."""
    x, w = np.zeros((1, 4, 4, 1), np.float32), np.zeros((65, 65, 1, 1), np.float32)
    too_many_terms(x, w)
    found = frames(lambda: jax.grad(too_many_terms)(x, w))
    assert found[-1] == (__file__, "<lambda>")
    assert [file for file, _ in found if file.startswith(HERE)] == []


def test_all_frames_without_filtering():
    jax.config.update("jax_traceback_filtering", "off")
    try:
        found = frames(lambda: wrong(x))
    finally:
        jax.config.update("jax_traceback_filtering", "auto")
    assert found[-1][0].startswith(HERE)


def test_other_errors_keep_their_frames():
    """Errors of the user's own function, and faults, keep theirs."""

    def draw(key, shape, dtype):
        raise ValueError("the user's own")

    found = frames(lambda: jdeconv.initializers.icnr(2, draw)(jax.random.key(0), (4, 4, 1, 1)))
    assert found[-1] == (__file__, "draw")
    assert any(file.startswith(HERE) for file, _ in found)


def test_a_decorated_function_stays_itself():
    def f(a: int, *, b: str = "") -> None:
        """Text."""
        raise refusal(ValueError, "a", a, "wrong", "expected another", "Use it.")

    g = blames_caller(f)
    assert (g.__name__, g.__doc__, inspect.signature(g)) == ("f", "Text.", inspect.signature(f))


def test_a_refusal_keeps_no_operand_alive():
    x, w = jax.numpy.ones((1, 4, 4, 1)), jax.numpy.ones((2, 2, 1, 1))
    alive = weakref.ref(x)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            jdeconv.conv2d_transpose(x, w, None, strides=0)
        del x
        assert alive() is None
    finally:
        gc.enable()
