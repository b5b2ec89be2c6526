"""Settings that change programs: JAX traces and compiles a function once for each of their values.

Both are made when jdeconv is imported: JAX can't add one safely while another thread uses JAX, and what was traced
before is traced once more.
"""

import os

from ._jax_compat import setting

patched = setting(False)
"""Whether `jax.lax`'s convolutions are routed through jdeconv; in a thread that is in a block of `patch()`, else
everywhere."""

onednn = setting(os.environ.get("JDECONV_ONEDNN") != "0")
"""Whether programs may call oneDNN."""
