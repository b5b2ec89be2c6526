"""Errors by their whole text: each refusal of a table, as a test."""

import pytest


def refusals(table):
    """A test of each call in `table`, by name: it raises just this error, a ValueError if its text names no class."""

    @pytest.mark.parametrize("name", table)
    def test(name):
        call, message = table[name]
        with pytest.raises((ValueError, TypeError)) as refused:
            call()
        error = refused.value
        named = message if message.startswith("TypeError: ") else f"ValueError: {message.removeprefix('ValueError: ')}"
        assert f"{type(error).__name__}: {error}" == named

    return test
