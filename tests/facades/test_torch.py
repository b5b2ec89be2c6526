"""jdeconv.torch against live PyTorch: its own tests' configurations, random ones, and which calls are refused."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import check_close, needs, peer, refuses, trace

import jdeconv
from jdeconv._arguments import described

torch = peer("torch")
needs_torch = needs(torch, "PyTorch")

# Of the largest magnitude. For 16 bits PyTorch computes in 64: two roundings of the result are left.
ROOM = {"float32": 1e-5, "float64": 1e-12, "complex64": 1e-5, "complex128": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}
OURS = {1: jdeconv.torch.conv_transpose1d, 2: jdeconv.torch.conv_transpose2d, 3: jdeconv.torch.conv_transpose3d}


@dataclasses.dataclass(frozen=True)
class Call:
    input: tuple
    weight: tuple
    bias: bool
    arguments: dict
    dtype: str = "float32"
    seed: int = 0

    @property
    def rank(self):
        return len(self.weight) - 2

    def operands(self):
        """input, weight and, if there is one, bias."""
        rng = np.random.default_rng(self.seed)
        shapes = [self.input, self.weight]
        shapes += [(self.weight[1] * self.arguments.get("groups", 1),)] * self.bias
        return [self._draw(rng, shape) for shape in shapes]

    def _draw(self, rng, shape):
        values = rng.standard_normal(shape)
        if self.dtype.startswith("complex"):
            values = values + 1j * rng.standard_normal(shape)
        return values.astype(jnp.dtype(self.dtype))

    def ours(self):
        """The result and the gradient of each operand, for a cotangent drawn from the seed; and that cotangent."""

        def all_of_them(operands):
            y, pull = jax.vjp(lambda *operands: OURS[self.rank](*operands, **self.arguments), *operands)
            cotangent = self._draw(np.random.default_rng(1), y.shape)
            return y, *pull(jnp.asarray(cotangent))

        wide = self.dtype in ("float64", "complex128")
        with jax.enable_x64(True) if wide else contextlib.nullcontext():
            found = jax.jit(all_of_them)(self.operands())
        assert {array.dtype for array in found} == {jnp.dtype(self.dtype)}
        return found

    def theirs(self):
        narrow = self.dtype in ("float16", "bfloat16")
        tensors = [torch.tensor(a.astype("float64") if narrow else a, requires_grad=True) for a in self.operands()]
        function = getattr(torch.nn.functional, f"conv_transpose{self.rank}d")
        y = function(*tensors, **self.arguments)
        cotangent = self._draw(np.random.default_rng(1), tuple(y.shape))
        # PyTorch's gradient of a complex number is the conjugate of JAX's.
        pulled = torch.autograd.grad(
            y, tensors, torch.tensor(cotangent.conj().astype(tensors[0].detach().numpy().dtype))
        )
        return [y.detach().numpy(), *(gradient.numpy().conj() for gradient in pulled)]

    def check(self):
        check_close(self.ours(), self.theirs(), ROOM[self.dtype], self)


# Their tests: torch.testing._internal's common_nn (input size and constructor arguments), common_modules, and the
# samples in common_methods_invocations.

MODULES = {
    "ConvTranspose1d": ((1, 3, 7), dict(out=4, kernel=3, stride=(3,), padding=1, output_padding=(1,))),
    "ConvTranspose1d_no_bias": ((1, 3, 6), dict(out=4, kernel=3, stride=2, padding=1, output_padding=1, bias=False)),
    "ConvTranspose1d_dilated": ((1, 3, 6), dict(out=4, kernel=3, stride=2, padding=1, output_padding=1, dilation=2)),
    "ConvTranspose1d_groups": (
        (2, 4, 7), dict(out=6, kernel=3, stride=(3,), padding=1, output_padding=(1,), groups=2)),
    "ConvTranspose2d": ((1, 3, 7, 6), dict(out=4, kernel=3, stride=(3, 2), padding=1, output_padding=(1, 1))),
    "ConvTranspose2d_dilated": (
        (1, 3, 6, 7),
        dict(out=4, kernel=3, stride=(2, 3), padding=1, output_padding=(1, 1), bias=False, dilation=(2, 2))),
    "ConvTranspose2d_no_bias": (
        (1, 3, 6, 7), dict(out=4, kernel=3, stride=(2, 3), padding=1, output_padding=(1, 1), bias=False)),
    "ConvTranspose2d_groups": ((1, 2, 4, 5), dict(out=4, kernel=(2, 3), groups=2)),
    "ConvTranspose3d": ((1, 2, 4, 5, 4), dict(out=3, kernel=(2, 3, 2))),
    "ConvTranspose3d_dilated": ((1, 2, 4, 5, 4), dict(out=3, kernel=(2, 3, 2), dilation=(2, 2, 2))),
    **{f"ConvNd {n}": ((2, 4, 3, 4, 5)[: n + 2], dict(out=5, kernel=3)) for n in (1, 2, 3)},
    **{f"ConvNd {n}, no batch": ((4, 3, 4, 5)[: n + 1], dict(out=5, kernel=3, unbatched=True)) for n in (1, 2, 3)},
}  # fmt: skip

SAMPLES = [
    Call((1, 3, 4), (3, 3, 3), True, dict(stride=(2,), padding=2, output_padding=(1,))),
    Call((2, 2, 4), (2, 2, 4), True, dict(stride=(3,), padding=(1,), output_padding=(2,), groups=2, dilation=(4,))),
    Call((1, 1, 4), (1, 1, 4), True, dict(stride=2, padding=1, output_padding=1, dilation=(2,))),
    Call((1, 1, 4), (1, 2, 3), False, dict(stride=2, padding=1, output_padding=1)),
    Call((1, 4, 5), (4, 8, 3), False, {}),
    Call((1, 3, 4, 4), (3, 3, 3, 3), True, dict(stride=(2, 2), padding=2, output_padding=(1, 1))),
    Call((2, 2, 4, 4), (2, 2, 4, 5), True,
         dict(stride=(3, 2), padding=(1, 2), output_padding=(2, 3), groups=2, dilation=(4, 4))),
    Call((1, 1, 4, 5), (1, 1, 4, 3), True, dict(stride=2, padding=1, output_padding=1, dilation=(2, 3))),
    Call((1, 1, 4, 3), (1, 2, 3, 4), False, dict(stride=2, padding=1, output_padding=1)),
    Call((2, 4, 4, 4), (4, 1, 3, 3), False, dict(groups=4)),
    Call((1, 2, 5, 5), (2, 4, 3, 3), False, {}),
    Call((1, 3, 4, 4, 4), (3, 3, 3, 3, 3), True, dict(stride=(2, 2, 2), padding=2, output_padding=(1, 1, 1))),
    Call((2, 2, 4, 4, 4), (2, 2, 4, 5, 6), True,
         dict(stride=(3, 2, 1), padding=(1, 2, 3), output_padding=(2, 3, 1), groups=2, dilation=(4, 4, 4))),
    Call((1, 1, 4, 5, 2), (1, 1, 4, 3, 1), True, dict(stride=2, padding=1, output_padding=1, dilation=(2, 3, 2))),
    Call((1, 1, 4, 3, 4), (1, 2, 3, 4, 5), False, dict(stride=2, padding=1, output_padding=1)),
    Call((1, 4, 5, 5, 5), (4, 8, 3, 3, 3), False, {}),
]  # fmt: skip


@needs_torch
@pytest.mark.parametrize("name", MODULES)
def test_their_module_tests(name):
    size, arguments = MODULES[name]
    arguments = dict(arguments)
    out, kernel, unbatched = arguments.pop("out"), arguments.pop("kernel"), arguments.pop("unbatched", False)
    rank = len(size) - 2 + unbatched
    module = getattr(torch.nn, f"ConvTranspose{rank}d")(size[-rank - 1], out, kernel, **arguments)
    x = np.random.default_rng(0).standard_normal(size).astype("float32")
    weights = [parameter.detach().numpy() for parameter in module.parameters()]  # weight and bias
    arguments.pop("bias", None)
    found = OURS[rank](x, *weights, **arguments)
    check_close([found], [module(torch.tensor(x)).detach().numpy()], ROOM["float32"], name)


@needs_torch
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("call", SAMPLES, ids=lambda call: f"{call.input} {call.weight}")
def test_their_sample_inputs(call, batched):
    dataclasses.replace(call, input=call.input if batched else call.input[1:]).check()


@st.composite
def calls(draw, dtypes):
    rank = draw(st.integers(1, 3))
    most = {1: 9, 2: 6, 3: 3}[rank]
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    in_sizes, kernel, stride, dilation = each(1, most), each(1, most - 1), each(1, 4), each(1, 3)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    full = [(i - 1) * s + (k - 1) * d + 1 + more
            for i, s, k, d, more in zip(in_sizes, stride, kernel, dilation, extra, strict=True)]  # fmt: skip
    padding = tuple(draw(st.integers(0, (size - 1) // 2)) for size in full)
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    arguments = dict(stride=stride, padding=padding, output_padding=extra, dilation=dilation)
    # One int for all, and no argument at all, where they mean the same.
    arguments = {name: value[0] if len(set(value)) == 1 else value for name, value in arguments.items()}
    if groups > 1 or draw(st.booleans()):
        arguments["groups"] = groups
    batch = draw(st.sampled_from([(), (1,), (2,), (3,)]))
    return Call(
        (*batch, groups * inputs, *in_sizes), (groups * inputs, outputs, *kernel), draw(st.booleans()), arguments,
        draw(st.sampled_from(dtypes)), draw(st.integers(0, 99)),
    )  # fmt: skip


@needs_torch
@settings(max_examples=settings.default.max_examples * 4 // 3)
@given(call=calls(["float32", "float32", "float64", "float16", "bfloat16", "complex64", "complex128"]))
def test_random_calls(call):
    call.check()


# What is refused. Left to either library, and not drawn: ints as arrays, bools or in sequences (PyTorch takes no NumPy
# arrays, jdeconv takes what is an integer); operands as lists (PyTorch takes tensors alone); int32 and int64 (jdeconv
# has the first, PyTorch the second); beside an empty batch, two types and an output_padding that is too large (PyTorch
# skips those checks there).

GOOD = dict(input=np.zeros((2, 4, 5, 7), np.float32), weight=np.zeros((4, 3, 3, 2), np.float32))
ONES = st.integers(-1, 3)
STEPS = st.one_of(st.integers(1, 3), ONES, st.lists(ONES, max_size=3), st.tuples(st.integers(1, 4), st.integers(1, 4)),
                  st.sampled_from([1.5, 2.0, (2, 1.0), "same", None]))  # fmt: skip
CHANGES = {
    "stride": STEPS, "dilation": STEPS, "padding": STEPS, "output_padding": STEPS,
    "groups": st.sampled_from([0, -1, 1, 2, 3, 4, 1.0, "1", None]),
    "input": st.sampled_from([(0, 4, 5, 7), (2, 0, 5, 7), (2, 4, 0, 7), (2, 4, 5, 0), (4, 5, 7), (0, 5, 7), (4, 5, 0),
                              (5, 7), (1, 2, 4, 5, 7), (2, 4, 1, 1), (2, 3, 5, 7)]),
    "weight": st.sampled_from([(3, 4, 3, 2), (4, 0, 3, 2), (4, 3, 0, 2), (4, 3, 3), (4, 3, 3, 2, 1), (0, 3, 3, 2),
                               (8, 3, 3, 2), (2, 3, 3, 2), (4, 1, 1, 1)]),
    "bias": st.sampled_from([(3,), (6,), (12,), (1,), (4,), (1, 3), (), (3, 1)]),
}  # fmt: skip


@needs_torch
@settings(max_examples=settings.default.max_examples * 4)
@given(data=st.data(), names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True),
       wrong_type=st.sampled_from([None] * 8 + ["input", "weight", "bias"]))  # fmt: skip
def test_pytorch_agrees_on_what_is_refused(data, names, wrong_type):
    call = {**GOOD, **{name: data.draw(CHANGES[name], label=name) for name in names}}
    for name in ("input", "weight", "bias"):
        if isinstance(call.get(name), tuple):
            call[name] = np.zeros(call[name], np.float32)
    if call["input"].size == 0:
        call.pop("output_padding", None)
    elif wrong_type in call:
        call[wrong_type] = call[wrong_type].astype("float16")
    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in call.items()}
    theirs = refuses(lambda: torch.nn.functional.conv_transpose2d(**tensors))
    ours = refuses(lambda: trace(jdeconv.torch.conv_transpose2d, call))
    shown = {name: described(value) for name, value in call.items()}
    assert bool(ours) == bool(theirs), f"{shown}\nPyTorch: {theirs}\njdeconv: {ours}"
    assert ours is None or isinstance(ours, (ValueError, TypeError))


def test_a_bias_under_strict_rank_promotion():
    x, w, bias = jnp.ones((1, 4, 5, 5)), jnp.ones((4, 2, 3, 3)), jnp.arange(2.0)
    want = jdeconv.torch.conv_transpose2d(x, w, None, 2) + bias[:, None, None]
    with jax.numpy_rank_promotion("raise"):
        np.testing.assert_array_equal(jdeconv.torch.conv_transpose2d(x, w, bias, 2), want)


@needs_torch
def test_departures_are_those_documented():
    """docs/pages/migrate/pytorch.md: a result of size 0; an output padding that is too large beside no images."""
    x, w = np.zeros((2, 4, 2, 2)), np.zeros((4, 3, 1, 1))
    theirs = [torch.tensor(a) for a in (x, w)]
    assert refuses(lambda: torch.nn.functional.conv_transpose2d(*theirs, padding=1))
    assert jdeconv.torch.conv_transpose2d(x, w, padding=1).shape == (2, 3, 0, 0)
    options = dict(stride=2, output_padding=9)
    assert torch.nn.functional.conv_transpose2d(theirs[0][:0], theirs[1], **options).shape == (0, 3, 12, 12)
    with pytest.raises(ValueError, match=r"^output_padding=9: 9 is too large; expected less than the larger of stride"):
        jdeconv.torch.conv_transpose2d(x[:0], w, **options)
