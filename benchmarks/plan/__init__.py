"""`python -m benchmarks plan`: the data behind the planner's rules, and how well the rules do on it."""
