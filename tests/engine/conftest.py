"""What the tests of oneDNN share."""

import pytest

from jdeconv._engine import onednn


@pytest.fixture
def fresh_probe():
    """Lets a test's probe run anew, and forgets its finding afterwards."""
    onednn._probed.cache_clear()
    yield
    onednn._probed.cache_clear()
