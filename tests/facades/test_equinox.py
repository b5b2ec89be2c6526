"""jdeconv.equinox.ConvTranspose against Equinox's: leaves, outputs, gradients, serialised weights."""

import dataclasses
import inspect
import io
import re

import jax
import numpy as np
import pytest
from cases import RUN_HERE
from hypothesis import assume, given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from peers import needs, peer
from quick import jit, with_gradients

import jdeconv

equinox = peer("equinox")
pytestmark = needs(equinox, "equinox")


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str
    sizes: tuple
    positional: tuple
    options: dict

    def build(self, module):
        return getattr(module, self.name)(*self.positional, **self.options, key=jax.random.key(5))

    @property
    def x(self):
        channels = self.positional[-2]
        return np.random.default_rng(0).standard_normal((channels, *self.sizes)).astype(np.float32)


@st.composite
def layers(draw):
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    most = {1: 6, 2: 4, 3: 3}[rank]
    groups = draw(st.integers(1, 3))
    stride = draw(st.one_of(st.integers(1, 3), st.just(each(1, 3))))
    largest = [
        (stride if isinstance(stride, int) else s) - 1 for s in (each(1, 1) if isinstance(stride, int) else stride)
    ]
    circular = draw(st.booleans()) and draw(st.booleans())
    pairs = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank))
    anything = ["SAME", "same_lower", "VALID", 0, 1, each(0, 3), pairs]
    pads = st.sampled_from(["SAME", "SAME_LOWER"] if circular else anything)
    options = dict(
        kernel_size=draw(st.one_of(st.integers(1, most), st.just(each(1, most)))),
        stride=stride,
        padding=draw(pads),
        output_padding=0 if circular else tuple(draw(st.integers(0, most)) for most in largest),
        dilation=draw(st.sampled_from([1, 2, each(1, 2)])),
        groups=groups,
        use_bias=draw(st.booleans()),
        padding_mode="CIRCULAR" if circular else "ZEROS",
    )
    channels = (groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)))
    if draw(st.booleans()):
        return Layer("ConvTranspose", each(1, most), (rank, *channels), options)
    return Layer(f"ConvTranspose{rank}d", each(1, most), channels, options)


@given(case=layers())
def test_is_equinox_own(case):
    ours, theirs = case.build(jdeconv.equinox), case.build(equinox.nn)
    mine, yours = (jax.tree.leaves(equinox.filter(layer, equinox.is_array)) for layer in (ours, theirs))
    for a, b in zip(mine, yours, strict=True):
        np.testing.assert_array_equal(a, b)

    def of(layer):
        weights, rest = equinox.partition(layer, equinox.is_array)
        flat, rebuild = ravel_pytree(weights)
        return flat, lambda p, x: equinox.combine(rebuild(p), rest)(x)

    (flat, f), (_, g) = of(ours), of(theirs)
    try:
        jax.eval_shape(g, flat, case.x)
    except ValueError as refused:  # pads that leave nothing; circular ones that wrap more than there is
        assume("egative padding" not in str(refused))
        raise
    both = jit(lambda p, x: [with_gradients(f, p, x) for f in (f, g)])(flat, case.x)
    for got, want in zip(*both, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=repr(case))


@given(case=layers(), method=st.sampled_from(sorted(RUN_HERE)))
def test_every_method_gives_equinox_output(case, method):
    """The method of a batch, by vmap."""
    theirs = case.build(equinox.nn)
    ours = dataclasses.replace(case, options=dict(case.options, method=method)).build(jdeconv.equinox)
    x = np.stack([case.x, 1 - case.x])
    try:
        jax.eval_shape(theirs, case.x)
    except ValueError as refused:
        assume("egative padding" not in str(refused))
        raise
    got, want = jit(lambda x: (jax.vmap(ours)(x), jax.vmap(theirs)(x)))(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=repr(case))


def test_positional_arguments_stand_where_equinox_has_them():
    """`ConvTranspose` has padding before output_padding; `ConvTranspose2d` the other way round."""
    for name, rank in (("ConvTranspose", (2,)), ("ConvTranspose2d", ())):
        ours, theirs = (
            getattr(m, name)(*rank, 4, 6, 3, 3, 2, 1, 1, 2, False, key=jax.random.key(0))
            for m in (jdeconv.equinox, equinox.nn)
        )
        fields = ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "use_bias")
        assert [getattr(ours, field) for field in fields] == [getattr(theirs, field) for field in fields]


def test_serialised_weights_interchange():
    ours, theirs = (
        m.ConvTranspose2d(4, 6, 3, 2, groups=2, key=jax.random.key(i))
        for i, m in enumerate([jdeconv.equinox, equinox.nn])
    )
    stored = io.BytesIO()
    equinox.tree_serialise_leaves(stored, theirs)
    stored.seek(0)
    loaded = equinox.tree_deserialise_leaves(stored, ours)
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(loaded(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", 1, ((2, 0), (0, 1))])
@pytest.mark.parametrize("extra", [(0, 0), (1, 2), (1, 0)])
def test_output_shape_is_output_padding(padding, extra):
    """Asking for the size that Equinox's output_padding would give, it gives that."""
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    theirs = equinox.nn.ConvTranspose2d(4, 6, (2, 3), (2, 3), extra, padding, key=jax.random.key(0))
    ours = jdeconv.equinox.ConvTranspose2d(4, 6, (2, 3), (2, 3), padding=padding, method="phase", key=jax.random.key(0))
    want = theirs(x)
    np.testing.assert_allclose(ours(x, output_shape=want.shape[1:]), want, rtol=1e-4, atol=1e-5)
    assert "method=phase" in str(jax.make_jaxpr(ours)(x))


REFUSED = [
    (dict(padding="SAME"), (3, 5, 5), dict(output_shape=(10, 11)),
     "output_shape=(10, 11): width 11 is not reachable from input width 5 with stride 2, SAME padding; "
     "reachable: 9 or 10. Ask for 10, or pass None for the default size."),
    (dict(padding=1), (3, 5, 5), dict(output_shape=8),
     "output_shape=8: height 8 is not reachable from input height 5 with stride 2, padding=((1, 1), (1, 1)); "
     "reachable: 9 or 10. Ask for 10, or pass None for the default size."),
    (dict(padding="SAME", padding_mode="CIRCULAR"), (3, 5, 5), dict(output_shape=9),
     "output_shape=9: given with padding_mode='CIRCULAR'; expected None. Crop the output."),
    (dict(), (1, 3, 5, 5), dict(),
     "x=float32[1, 3, 5, 5]: 4 dimensions; expected 3, channels first and no batch. For a batch, use jax.vmap(layer)."),
    (dict(), (4, 5, 5), dict(),
     "weight=float32[4, 3, 3, 3]: 3 input channels; expected those of x=float32[4, 5, 5], 4 in all. "
     "Give the layer as many channels as it was made for."),
    (dict(dtype="float16"), (3, 5, 5), dict(),
     "weight=float16[4, 3, 3, 3]: dtype float16; expected float32, as x=float32[3, 5, 5] has. "
     "Cast one of the two, for example with weight.astype(x.dtype)."),
    (dict(groups=3), (3, 5, 5), dict(),
     "groups=3: 3 input and 4 output channels; expected a divisor of both. Use 1, the default, for one group."),
    (dict(padding=9), (3, 5, 5), dict(),
     "padding=((9, 9), (9, 9)): more is cut off than the dilated input's 9 in dimension 0; "
     "expected pads that leave at least 0. Cut off less."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "shape", "call", "message"), REFUSED)
def test_refused(options, shape, call, message):
    layer = jdeconv.equinox.ConvTranspose2d(3, 4, 3, 2, **options, key=jax.random.key(0))
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as refused:
        layer(np.zeros(shape, np.float32), **call)
    assert str(refused.value) == message


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_steps_of_none_are_refused(name):
    """Equinox takes them; a dilation of 0 then ended the process in XLA's convolution."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        jdeconv.equinox.ConvTranspose2d(3, 4, 3, **{name: (1, 0)}, output_padding=-1, key=jax.random.key(0))
    assert str(refused.value) == f"{name}=(1, 0): 0 is too small; expected at least 1. Use 1 or more."


def test_types_that_are_refused_are_shown_without_a_batch():
    layer = jdeconv.equinox.ConvTranspose1d(3, 4, 3, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"^x=bool\[3, 5\]: dtype bool; expected floats of 16 bits or more"):
        layer(np.zeros((3, 5), bool))


@pytest.mark.parametrize("name", ["ConvTranspose", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
def test_the_constructor_has_equinox_own_arguments(name):
    """For help, editors and type checkers: names, order, kinds and defaults; and `method`."""
    mine, theirs = (inspect.signature(getattr(m, name).__init__).parameters for m in (jdeconv.equinox, equinox.nn))
    assert [(p.name, p.kind, p.default) for p in mine.values()] == [
        *((p.name, p.kind, p.default) for p in theirs.values()),
        ("method", inspect.Parameter.KEYWORD_ONLY, "auto"),
    ]


@pytest.mark.parametrize(("padding", "less"), [("SAME", 1), (1, 0)])
def test_output_shape_may_be_symbolic(padding, less):
    """Exported once, it gives what int sizes give; where it decides nothing or can't be, that is said."""
    layer = jdeconv.equinox.ConvTranspose2d(4, 6, 3, 2, padding=padding, key=jax.random.key(0))
    f = jax.jit(lambda x: layer(x, output_shape=(x.shape[1] * 2 - less, 14)))
    h, other = jax.export.symbolic_shape("h, other", constraints=["h >= 2"])
    described = jax.ShapeDtypeStruct((4, h, 7), "float32")
    x = np.random.default_rng(0).standard_normal((4, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(jax.export.export(f)(described).call(x), f(x), rtol=1e-5, atol=1e-5)
    default, pads = ("2*h", "SAME padding") if padding == "SAME" else ("2*h - 1", "padding=((1, 1), (1, 1))")
    for size, message in {
        other: f"output_shape=(other, 14): height: it can't be told whether {default} - other is a constant; expected "
        "symbolic sizes that decide it. State it in jax.export.symbolic_shape(..., constraints=[...]), or ask for "
        "multiples of the input's sizes.",
        2 * h
        + 9: f"output_shape=(2*h + 9, 14): height 2*h + 9 is not reachable from input height h with stride 2, {pads}; "
        "reachable: 2*h - 1 or 2*h. Ask for 2*h, or pass None for the default size.",
    }.items():
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            jax.eval_shape(lambda x, size=size: layer(x, output_shape=(size, 14)), described)
        assert str(refused.value) == message


@pytest.mark.parametrize(
    "options", [dict(padding="SAME"), dict(padding="SAME", padding_mode="CIRCULAR"), dict(groups=2)]
)
def test_one_named_scope(options):
    """Which compiled programs and profiles show: one for a call, as of Equinox's layer."""

    def scopes(module):
        layer = module.ConvTranspose2d(4, 6, 3, 2, **options, key=jax.random.key(0))
        text = jax.jit(lambda x: layer(x)).lower(np.ones((4, 5, 6), np.float32)).as_text(debug_info=True)
        return set(re.findall(r"[\w.]*\.ConvTranspose(?:/[\w.]*\.ConvTranspose)*", text))

    assert scopes(jdeconv.equinox) == {"jdeconv.equinox.ConvTranspose"}
    assert scopes(equinox.nn) == {"eqx.nn.ConvTranspose"}
