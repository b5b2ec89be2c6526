"""The planner: which formulation computes a result, by a table of measured rules. Nothing here imports JAX."""
