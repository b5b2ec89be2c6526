"""`.ci/run` and the workflow that calls it name the same steps."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / ".ci/run"
TEXT = RUN.read_text()
STEPS = re.search(r"^STEPS=\((.+)\)$", TEXT, re.M)[1].split()


def test_every_step_is_described_and_defined():
    assert re.findall(r"^#   (\w+) +\S", TEXT, re.M) == STEPS
    assert [name for name in re.findall(r"^(\w+)\(\) \{$", TEXT, re.M) if name in STEPS] == STEPS


def test_the_workflow_runs_every_step():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (named,) = re.findall(r"^ +step: \[(.+)\]$", workflow, re.M)
    assert named.split(", ") == STEPS
    assert re.findall(r"\.ci/run\b.*", re.sub(r"#.*", "", workflow)) == [".ci/run ${{ matrix.step }}"]


def test_an_unknown_step_is_refused():
    done = subprocess.run(["bash", RUN, "lint", "lnt"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"no step 'lnt'; the steps: {' '.join(STEPS)}\n"
