"""The operator: one sum over input, kernel and output, solved for one of the three, as one primitive of JAX."""

from . import lowering as lowering  # Whoever imports the primitive needs its lowerings registered.
