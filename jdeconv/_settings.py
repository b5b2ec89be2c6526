"""Settings that change programs: JAX traces and compiles a function once for each of their values.

Both are made when jdeconv is imported, because JAX can't add a setting safely while another thread uses JAX, and traces
everything once more afterwards.
"""

import os

from ._jax_compat import setting

patched = setting(None)
"""Which of `jax.lax`'s convolutions are routed through jdeconv: 'every' or 'transposed' inside `with patch():` or
everywhere, else None."""

onednn = setting(os.environ.get("JDECONV_ONEDNN") != "0")
"""Whether programs may call oneDNN."""
