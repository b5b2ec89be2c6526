"""Eight CPU devices for every test, hypothesis profiles, and where tests find `benchmarks`.

Modules that tests share are in `helpers`, which pytest's `pythonpath` names (pyproject.toml).
"""

import os
import pathlib
import sys

import jax
from hypothesis import HealthCheck, Phase, settings

sys.path.append(str(pathlib.Path(__file__).parents[1]))  # last, so that jdeconv is the installed one

jax.config.update("jax_platforms", "cpu")  # also where compilers for others are installed, which find no device
jax.config.update("jax_num_cpu_devices", 8)

# Derandomised, so that a red run is red for everybody; JDECONV_EXAMPLES draws more, JDECONV_SEED=random draws anew.
settings.register_profile(
    "jdeconv",
    max_examples=int(os.environ.get("JDECONV_EXAMPLES", "20")),
    derandomize=os.environ.get("JDECONV_SEED") != "random",
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
# pytest -m fuzz --hypothesis-profile=long: always anew, nothing kept for the next run, no minutes spent on shrinking.
settings.register_profile(
    "long",
    settings.get_profile("jdeconv"),
    max_examples=500,
    derandomize=False,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("jdeconv")
