"""Kernels and parameter trees from one library's layout to another's."""

import math
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from . import _trees
from ._arguments import integer, shown
from ._errors import blames_caller, refusal
from ._jax_operations import jnp
from ._layouts import Layout, ends, groups_of, layout_named, moved
from ._operands import described


@blames_caller
def kernel(kernel: Any, source: str = "torch", target: str = "tf", groups: int = 1) -> Any:
    """A transposed convolution's kernel in another library's layout; nothing is computed, so round trips are exact.

    With `*k` the spatial sizes in pixels, and channels in contiguous groups, the layouts are:

    | name | shape | taps | read by |
    |---|---|---|---|
    | `'tf'`, `'keras'` | `[*k, out / groups, in]` | | `jdeconv.conv2d_transpose`, `tf.nn`, Keras |
    | `'torch'`, `'onnx'` | `[in, out / groups, *k]` | | `torch.nn.ConvTranspose2d`, ONNX's `ConvTranspose` |
    | `'flax'` | `[*k, in / groups, out]` | flipped | Flax's `ConvTranspose`, `jax.lax.conv_transpose` |
    | `'flax_transposed'` | `[*k, out / groups, in]` | | the same with `transpose_kernel=True` |
    | `'equinox'` | `[out, in / groups, *k]` | flipped | `equinox.nn.ConvTranspose2d` |
    | `'haiku'` | `[*k, out, in / groups]` | flipped | `haiku.Conv2DTranspose` |

    Keras's, Flax's and Haiku's own layers have no groups; what is given for more than one is what TensorFlow and
    `jax.lax.conv_general_dilated` (its `feature_group_count`) read in the same order of axes.

    Args:
      kernel: an array with at least one spatial dimension, of any dtype: NumPy's, JAX's (also traced), a PyTorch
        tensor, a variable of TensorFlow, Keras or Flax, or an h5py dataset.
      source, target: names of the table. Default: from PyTorch to TensorFlow.
      groups: how many groups the channels are in. Default 1.

    Returns:
      A JAX array for a JAX array or Flax variable, else a new NumPy array; same dtype, contiguous.

    Raises:
      ValueError: an unknown layout, or channels that are no multiple of `groups`. TypeError: not an array.

    Example:
      >>> import numpy as np
      >>> w = np.arange(12.0).reshape(3, 1, 1, 4)  # PyTorch's [in, out, H, W]
      >>> kernel(w, "torch", "tf").shape
      (1, 4, 1, 3)
      >>> kernel(w, "torch", "flax")[0, :, 0, 0]  # the first input channel's taps, backwards
      array([3., 2., 1., 0.])

    Semantics: each library's own layer, by its outputs (`tests/test_convert.py`).
    """
    old, new = (layout_named(name, value) for name, value in (("source", source), ("target", target)))
    array = _array("kernel", kernel)
    if array.ndim < 3:
        raise refusal(
            ValueError,
            "kernel",
            described(array),
            f"{array.ndim} dimensions",
            "expected 3 or more: spatial ones and two of channels",
            "Give the kernel of a transposed convolution; other layers' are converted by `tree`.",
        )
    count = integer(groups)
    if count is None or count < 1:
        kind = TypeError if count is None else ValueError
        raise refusal(kind, "groups", shown(groups), "not a count", "expected an int from 1", "Use 1 for no groups.")
    channels = dict(zip(ends(old.conv_transpose, array.ndim), array.shape, strict=True)).get
    grouped = channels("gi") or channels("go") or 0
    if grouped % count:
        raise refusal(
            ValueError,
            "groups",
            shown(groups),
            f"does not divide {grouped} channels",
            f"expected a divisor of them, kernel={described(array)} being laid out as {source!r}",
            "Check groups, and whose layout it is.",
        )
    result = moved(array, old.conv_transpose, new.conv_transpose, count, old.flipped != new.flipped)
    return result if isinstance(result, jax.Array) else np.array(result, order="C")


@blames_caller
def tree(
    tree: Any,
    like: Any,
    source: str = "torch",
    target: str = "flax",
    *,
    names: _trees.Names = None,
    transposed: bool | Collection[str] | None = None,
) -> Any:
    """A model's parameters, kept by one library, in the place of another library's.

    It renames leaves and moves axes; reading files is the libraries' own business. `tree` and `like` are pytrees of
    arrays, for example:

    | library | pytree |
    |---|---|
    | `'torch'` | `module.state_dict()`, `torch.load(path, weights_only=True)` |
    | `'keras'` | `{v.path: v for v in keras.saving.load_model(path).weights}` |
    | `'tf'` | `{v.name: v for v in tf.saved_model.load(path).variables}` |
    | `'onnx'` | `{t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}` |
    | `'flax'`, `'flax_transposed'` | linen's variables (or `variables['params']`), an nnx module or its `nnx.state` |
    | `'equinox'` | a module, or the pair (module, state) where it has batch norms |
    | `'haiku'` | the parameters, or `{'params': parameters, 'state': state}` |

    Which leaf is what:

    - A layer is the leaves with one path up to the leaf's name, and is called by that path, joined by `/`.
    - 1-D leaves (biases, scales and offsets of norms, their running means and variances) keep their values; Equinox's
      biases have spatial dimensions of 1 beside.
    - A `kernel`, `weight` or `w` of two dimensions is a dense layer's, or an `embeddings` table, as either name says.
    - One of more dimensions is a convolution's, or a transposed one's, as the class of the layer says (of an Equinox or
      nnx module), else `transposed`, else the last word of its name in either tree, such as `ConvTranspose_0`,
      `conv2d_transpose` or `Conv_0`.

    Not moved: the rows of a dense layer that follows a flattened image or precedes one, whose order differs between
    channels first and last. And what is no parameter, such as a norm's epsilon and momentum.

    Args:
      tree: the parameters.
      like: the model that takes them: a pytree with all its leaves (arrays or `jax.ShapeDtypeStruct`s).
      source, target: whose `tree` and `like` are, by the names of the table; also which of Flax's two kernels,
        `'flax_transposed'` being those of `transpose_kernel=True`.
      names: which layer of `tree` is which of `like`: a mapping or function of names. Layers that a mapping lacks, and
        all by default, have the same name in both, apart from what all names of a tree begin with.
      transposed: True if all convolutions are transposed, False if none is, or `fnmatch` patterns of the names in
        `tree` of those that are. None (default): as names say.

    Returns:
      `like` with the values of `tree`, in the dtypes of `like`. Groups are as the shapes say. Haiku's and Equinox's
      counters of batches say that the statistics have settled; PyTorch's counters and random states stay.

    Raises:
      ValueError: by name, a leaf that is none of the above, a layer that only one of the two has, a convolution of
        which it isn't known whether it is transposed, or shapes that don't fit.

    Example:
      >>> import numpy as np
      >>> state_dict = {"up.weight": np.ones((8, 3, 4, 4)), "up.bias": np.zeros(3)}
      >>> variables = {"params": {"up": {"kernel": np.empty((4, 4, 8, 3)), "bias": np.empty(3)}}}
      >>> tree(state_dict, variables, "torch", "flax", transposed=True)["params"]["up"]["kernel"].shape
      (4, 4, 8, 3)

    Semantics: models in each library with the same outputs (`tests/test_convert_tree.py`).
    """
    layouts = {"source": layout_named("source", source), "target": layout_named("target", target)}
    old, new = _trees.read("tree", tree, source), _trees.read("like", like, target)
    _trees.check_patterns(old, transposed)
    values = {}
    for name, taker in _trees.paired(old, new, names):
        giving, taking = old.layers[name], new.layers[taker]
        kind = _trees.kind(giving, taking, transposed)
        _trees.check_roles(giving, taking)
        values[taker] = {role: _fitted(giving.leaves[role], taking, role, kind, **layouts) for role in taking.roles}
    return _trees.filled(new, values)


def _array(argument: str, value: Any) -> Any:
    """A JAX array, or else a NumPy one."""
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "__jax_array__"):
        return value.__jax_array__()
    given = value
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu()
        bfloat16 = str(value.dtype) == "torch.bfloat16"  # which its .numpy() doesn't know
        value = value.float().numpy().astype(jnp.bfloat16) if bfloat16 else value.numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths
        array = np.asarray(None)
    if array.dtype == object or array.dtype.kind in "SU":
        raise refusal(
            TypeError,
            argument,
            described(given),
            "not an array",
            "expected an array of numbers",
            "Pass an array of NumPy, JAX or PyTorch.",
        )
    return array


def _fitted(value: Any, layer: _trees.Layer, role: str, kind: str, *, source: Layout, target: Layout) -> Any:
    """A leaf's value in the shape that `layer` has for this role."""
    wanted, array = tuple(layer.leaves[role].shape), _array("tree", value)
    fitted = array
    if role == "weight" and kind in ("conv", "conv_transpose", "dense") and array.ndim == len(wanted):
        old, new = getattr(source, kind), getattr(target, kind)
        flip = kind == "conv_transpose" and source.flipped != target.flipped
        fitted = moved(array, old, new, groups_of(array.shape, old, wanted, new), flip)
    elif max(array.shape, default=1) == array.size and max(wanted, default=1) == math.prod(wanted) == array.size:
        fitted = array.reshape(wanted)  # 1-D, with or without the dimensions of 1 that Equinox's biases have
    if fitted.shape != wanted:
        raise refusal(
            ValueError,
            "tree",
            described(array),
            f"its {kind} {role} doesn't fit like's layer {layer.name!r}",
            f"expected what becomes {list(wanted)}, not {list(fitted.shape)}",
            "Check names, transposed, source and target.",
        )
    return fitted
