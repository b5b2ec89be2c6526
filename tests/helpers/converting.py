"""What the tests of whole trees share: random leaves, and refusals by their whole text."""

import re

import numpy as np
import pytest

from jdeconv import convert

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.standard_normal(shape, np.float32)


def refused(message, *arguments, **options):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convert.tree(*arguments, **options)
