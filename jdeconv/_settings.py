"""Settings that change programs: JAX traces and compiles a function once for each of their values.

All are made when jdeconv is imported, because JAX can't add a setting safely while another thread uses JAX, and traces
everything once more afterwards.
"""

import os

from ._jax_compat import setting
from ._onednn_switch import read_switch

patched = setting(None)
"""Which of `jax.lax`'s convolutions are routed through jdeconv: 'every' or 'transposed' inside `with patch():` or
everywhere, else None."""

onednn = setting(read_switch("JDECONV_ONEDNN", os.environ.get("JDECONV_ONEDNN") or "1"))
"""Whether programs may call oneDNN, and for what: a `Switch`."""

tunings = setting(())
"""The tunings whose `with` blocks this thread is in, the innermost first."""

process_tunings = setting(tuple(filter(None, [os.environ.get("JDECONV_TUNING")])))
"""The tunings in use in every thread, the last one first; the path of a file stands for what is in it."""
