"""The planner: a table of measured rules chooses how a result is computed. Nothing here imports JAX."""
