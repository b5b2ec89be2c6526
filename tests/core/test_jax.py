"""JAX beyond its public API: in one file, with a clear message where a JAX lacks it, and another way where there is."""

import ast
import pathlib
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import jdeconv
from jdeconv import _jax_compat

PACKAGE = pathlib.Path(jdeconv.__file__).parent
PRIVATE = re.compile(
    r"jax\._src\b|jax\.(interpreters|extend|core)\b|jaxlib\.(?!version$)"
    r"|\b(manual_axis_type|module_context|axis_context|lowering_parameters)$"
)


def names_in(tree):
    """All imported names, and every dotted name and attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def test_the_private_api_is_in_one_file():
    """Attributes of a context or type that `_jax_compat` has handed on may be used elsewhere."""
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(PRIVATE.search(name) for name in names_in(ast.parse(path.read_text()))) and path.name != "_jax_compat.py"
    }
    assert users == set()


RUN = (
    "import numpy as np, jdeconv; "
    "print(jdeconv.conv1d_transpose(np.ones((1, 2, 1)), np.ones((2, 1, 1)), None, 2).sum())"
)
LACKING = {
    "del jax.lax.neg_p": None,  # jax.extend has the class
    "import jax._src.source_info_util as s; del s.register_exclusion": None,
    "import jax.interpreters.mlir as m; del m.lower_fun": "jax.interpreters.mlir.lower_fun",
    "import jax.interpreters.ad as m; del m.defbilinear": "jax.interpreters.ad.defbilinear",
    "import jax.core as m; del m.ShapedArray": "jax.core.ShapedArray",
    "import sys; sys.modules['jax.interpreters'] = sys.modules['jax.interpreters.batching'] = None": (
        "jax.interpreters.batching.primitive_batchers"
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lacking", LACKING)
def test_a_jax_that_lacks_it(lacking):
    """In a process of its own: the call works by another way, or the import says what is missing and what to do."""
    code = f"import jax; jax.config.update('jax_platforms', 'cpu'); {lacking}; {RUN}"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    if LACKING[lacking] is None:
        assert (found.stdout, found.returncode) == ("4.0\n", 0), found.stderr
    else:
        assert found.stderr.splitlines()[-1] == (
            f"ImportError: JAX {jax.__version__}: it has no {LACKING[lacking]}; jdeconv expected that of JAX "
            "0.10.2 to 0.12.0.1. Install one of these, or a jdeconv that knows this one."
        )


def test_varying_axes():
    axes = frozenset({"a"})
    assert _jax_compat.varying(types.SimpleNamespace(manual_axis_type=types.SimpleNamespace(varying=axes))) == axes
    assert _jax_compat.varying(jax.typeof(np.ones(2))) == frozenset()
    with pytest.raises(ImportError, match=r"^JAX .*: it has no jax\.typeof\(\.\.\.\)\.manual_axis_type\.varying; "):
        _jax_compat.varying(types.SimpleNamespace())


def context(**axes):
    module = types.SimpleNamespace(
        axis_context=types.SimpleNamespace(**axes), lowering_parameters=types.SimpleNamespace(for_export=False)
    )
    return types.SimpleNamespace(module_context=module)


def test_a_lowerings_context():
    auto, manual = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Manual
    mesh = jax.sharding.AbstractMesh((4, 2), ("a", "b"), (auto, auto))
    assert _jax_compat.program_of(context(num_devices=None))[:3] == (1, True, False)
    eight = _jax_compat.program_of(context(num_devices=8))
    assert eight[:3] == (8, False, False)
    assert eight.mesh.axis_sizes == (8,)
    assert _jax_compat.program_of(context(manual_axes={"a", "b"}, mesh=mesh))[:3] == (1, True, False)
    some = _jax_compat.program_of(context(manual_axes={"a"}, mesh=mesh))
    assert some[:3] == (1, False, False)
    assert some.mesh.axis_types == (manual, auto)


@pytest.mark.parametrize("lacking", [types.SimpleNamespace(), context(), context(devices=8)])
def test_an_unknown_context_is_never_taken_for_one_device(lacking):
    with pytest.raises(ImportError, match=r"^JAX .*: it has no context of lowerings with what is read there \("):
        _jax_compat.program_of(lacking)


def test_source_lines_are_the_users():
    """Jaxprs, and so compiled programs, profiles and JAX's own errors, name the user's line."""
    x, w = np.ones((1, 2, 1), np.float32), np.ones((2, 1, 1), np.float32)
    jaxpr = jax.make_jaxpr(lambda x, w: jdeconv.conv1d_transpose(x, w, None, 2))(x, w)
    lines = jaxpr.pretty_print(source_info=True, use_color=False).splitlines()
    (line,) = (line for line in lines if "transposed_convolution[" in line)
    assert str(PACKAGE) not in "\n".join(lines)
    assert "test_jax.py" in "\n".join(lines), line


def test_jet_is_not_imported_for_its_rule():
    subprocess.run(
        [sys.executable, "-c", f"import sys; {RUN}; assert 'jax.experimental.jet' not in sys.modules"], check=True
    )
