"""What Flax's machinery sees of jdeconv.linen.ConvTranspose: one call, as of Flax's own layer."""

import re

import jax
import numpy as np
import pytest
from flax_cases import same
from jax import lax
from peers import needs, peer

import jdeconv

linen = peer("flax.linen")
pytestmark = needs(linen, "flax")
X = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)

W = np.random.default_rng(2).standard_normal((3, 3, 4, 6)).astype(np.float32)


class Decoder(linen.Module if linen else object):
    layer: type
    options: dict

    if linen:

        @linen.compact
        def __call__(self, x):
            return self.layer(6, (3, 2), (2, 3), bias_init=linen.initializers.normal(), **self.options, name="up")(x)


MASK = (np.random.default_rng(1).random((3, 2, 4, 6)) < 0.5).astype(np.float32)
SEEN = {
    "plain": (dict(), X),
    "mask": (dict(mask=MASK), X),
    "circular": (dict(padding="CIRCULAR"), X),
    "unbatched": (dict(), X[0]),
    "two batches": (dict(), np.stack([X, X])),
}


def both_ways(name):
    """Flax's model, ours, the variables of either and the input."""
    options, x = SEEN[name]
    theirs, mine = (Decoder(m, options) for m in (linen.ConvTranspose, jdeconv.linen.ConvTranspose))
    variables = theirs.init(jax.random.key(0), x)
    same(mine.init(jax.random.key(0), x), variables)
    return theirs, mine, variables, x


def method_calls(f):
    """What `f` returns where an interceptor doubles what layers return, and each call that the interceptor sees."""
    seen = []

    def interceptor(following, arguments, options, context):
        seen.append((context.method_name, context.module.path, [np.shape(a) for a in arguments], sorted(options)))
        y = following(*arguments, **options)
        return 2 * y if isinstance(context.module, linen.ConvTranspose) and context.method_name == "__call__" else y

    with linen.intercept_methods(interceptor):
        return f(), seen


@pytest.mark.parametrize("name", SEEN)
def test_one_call_for_interceptors(name):
    theirs, mine, variables, x = both_ways(name)
    (got, ours), (want, flax) = (method_calls(lambda m=m: m.apply(variables, x)) for m in (mine, theirs))
    assert ours == flax == [("__call__", (), [x.shape], []), ("__call__", ("up",), [x.shape], [])]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got, 2 * mine.apply(variables, x), rtol=1e-6)


def test_one_call_for_interceptors_of_what_flax_has_not():
    for options, call in [
        (dict(), dict(output_shape=(9, 17))),
        (dict(feature_group_count=2, mask=MASK[:, :, :2]), dict()),
    ]:
        layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3), **options)
        variables = layer.init(jax.random.key(0), X)
        y, seen = method_calls(lambda: layer.apply(variables, X, **call))  # noqa: B023
        assert seen == [("__call__", (), [X.shape], [*call])]
        np.testing.assert_allclose(y, 2 * layer.apply(variables, X, **call), rtol=1e-6)


@pytest.mark.parametrize("name", SEEN)
def test_one_intermediate(name):
    theirs, mine, variables, x = both_ways(name)
    (y, ours), (_, flax) = (m.apply(variables, x, capture_intermediates=True) for m in (mine, theirs))
    assert jax.tree.structure(ours) == jax.tree.structure(flax)
    (kept,) = ours["intermediates"]["up"]["__call__"]
    np.testing.assert_array_equal(kept, y)


def scopes(model, variables, x):
    """The paths of names that compiled programs and profiles show, without the operations at their ends."""
    lowered = jax.jit(model.apply).lower(variables, x).as_text(debug_info=True)
    paths = re.findall(r'"jit\(apply\)/([^"]*)"', lowered)
    return {re.match("(Decoder)?(/up)*", path)[0] for path in paths}


@pytest.mark.parametrize("name", SEEN)
def test_one_named_scope(name):
    theirs, mine, variables, x = both_ways(name)
    assert scopes(mine, variables, x) == scopes(theirs, variables, x) == {"Decoder/up"}


@pytest.mark.parametrize("name", SEEN)
def test_one_row_of_a_table(name):
    theirs, mine, _, x = both_ways(name)
    tables = [m.tabulate(jax.random.key(0), x, console_kwargs=dict(width=200)) for m in (mine, theirs)]
    assert tables[0] == tables[1]


def lifted(layer):
    """Flax's transformations of a layer, each as a model of one input."""
    options = dict(features=4, kernel_size=(3, 3), strides=(1, 1), bias_init=linen.initializers.normal())
    each = dict(variable_axes={"params": 0}, split_rngs={"params": True})
    return {
        "remat": linen.remat(layer)(**options),
        "jit": linen.jit(layer)(**options),
        "vmap": linen.vmap(layer, **each)(**options),
        "scan": Scanned(layer, options),
        "add_metadata_axis": linen.add_metadata_axis(layer, variable_axes={"params": 0})(**options),
        "shared scope": Sharing(layer, options),
        "set up": SetUp(layer, options),
        "subclass": type("Up", (layer,), {"__call__": lambda self, x: 2 * super(type(self), self).__call__(x)})(
            **options
        ),
    }


class Holder(linen.Module if linen else object):
    layer: type
    options: dict


class Scanned(Holder):
    if linen:

        @linen.compact
        def __call__(self, x):
            up = self.layer(**self.options, name="up")
            step = linen.scan(
                lambda up, x: (up(x), None), variable_broadcast="params", split_rngs={"params": False}, length=2
            )
            return step(up, x)[0]


class Sharing(Holder):
    if linen:

        def setup(self):
            self.up = self.layer(**self.options)
            linen.share_scope(self, self.up)

        def __call__(self, x):
            return self.up(x)


class SetUp(Holder):
    if linen:

        def setup(self):
            self.up = self.layer(**self.options)

        def __call__(self, x):
            return self.up(self.up(x))

        def once(self, x):
            return self.up(x)


@pytest.mark.parametrize(
    "name", ["remat", "jit", "vmap", "scan", "add_metadata_axis", "shared scope", "set up", "subclass"]
)
def test_flax_transformations(name):
    ours, theirs = (lifted(m)[name] for m in (jdeconv.linen.ConvTranspose, linen.ConvTranspose))
    variables = theirs.init(jax.random.key(0), X)
    same(ours.init(jax.random.key(0), X), variables)
    (got, mine), (want, flax) = (method_calls(lambda m=m: m.apply(variables, X)) for m in (ours, theirs))
    assert mine == flax
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    if name == "set up":
        got, want = (m.apply(variables, X, method="once") for m in (ours, theirs))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_function_of_the_users_keeps_its_own_convolutions():
    """What an initialiser jits, which the layer calls, is not traced with the layer's convolution in lax's place."""

    @jax.jit
    def helper(x, w):
        return lax.conv_transpose(x, w, (2, 2), "SAME")

    def init(key, shape, dtype):
        return jax.random.normal(key, shape, dtype) + helper(X, W).sum()

    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3), feature_group_count=2, kernel_init=init)
    layer.init(jax.random.key(0), X)
    assert "transposed_convolution" not in str(jax.make_jaxpr(helper)(X, W))
    np.testing.assert_array_equal(helper(X, W), lax.conv_transpose(X, W, (2, 2), "SAME"))


def test_nothing_is_put_into_lax():
    """Where another thread would meet it."""
    stood, found = lax.conv_transpose, []
    promote = linen.dtypes.promote_dtype

    def promoting(*arrays, **options):
        found.append(lax.conv_transpose)
        return promote(*arrays, **options)

    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3), promote_dtype=promoting)
    layer.init(jax.random.key(0), X)
    assert found == [stood]


def test_a_flax_that_computes_otherwise_is_an_error(monkeypatch):
    """Not an output without the layer's `output_shape`."""
    import flax

    monkeypatch.setattr(flax, "__version__", "9.9.9")

    @linen.compact
    def other(self, inputs):
        self.param("kernel", self.kernel_init, (3, 2, 4, 6), np.float32)
        return inputs

    monkeypatch.setattr(linen.ConvTranspose, "__call__", other)
    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3))
    with pytest.raises(ImportError) as refused:
        layer.init(jax.random.key(0), X, output_shape=(9, 17))
    assert str(refused.value) == (
        "Flax 9.9.9: its ConvTranspose calls lax.conv_transpose 0 times; jdeconv expected once, as in Flax "
        f"{jdeconv._flax.TESTED}. Install one of these, or a jdeconv that knows this one."
    )
