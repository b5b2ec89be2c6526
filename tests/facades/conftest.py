"""What tests of facades share."""

import pytest
from jax import lax
from patching import ORIGINALS


@pytest.fixture
def lax_restored():
    """After the test jax.lax is as it was."""
    yield
    assert {name: getattr(lax, name) for name in ORIGINALS} == ORIGINALS
