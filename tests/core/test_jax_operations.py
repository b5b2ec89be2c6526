"""`lax` and `jnp` as this package has them."""

import types

import jax
import pytest

from jdeconv import _jax_operations
from jdeconv._jax_operations import jnp, lax

COPIES = {"conv_general_dilated", "dot_general", "einsum"}


@pytest.mark.parametrize(("own", "public"), [(lax, jax.lax), (jnp, jax.numpy)], ids=["lax", "numpy"])
def test_they_are_what_jax_has(own, public):
    other = {name for name, value in vars(own).items() if getattr(public, name, None) is not value}
    assert other <= COPIES


@pytest.mark.parametrize("name", ["conv_general_dilated", "pad", "dynamic_slice", "psum", "einsum", "take", "stack"])
def test_what_stands_there_at_import_is_not_taken(name):
    public, sources = (jax.lax, _jax_operations._LAX) if hasattr(jax.lax, name) else (jax.numpy, _jax_operations._NUMPY)
    stands = types.ModuleType(public.__name__)
    vars(stands).update(vars(public) | {name: lambda *_: None})
    assert getattr(_jax_operations._own(stands, *sources), name) is getattr(public, name)
