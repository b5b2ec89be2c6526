"""Kernels and whole models' parameters, moved from one library's layout to another's."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from .._arguments import described, integer, shown
from .._call.arrays import any_array
from .._errors import blames_caller, refusal
from . import _moves, _pairs, _patterns, _trees
from ._kernel_layouts import axis_names, layout_named, moved


@blames_caller
def kernel(kernel: Any, source: str = "torch", target: str = "tf", groups: int = 1) -> Any:
    """A transposed convolution's kernel in another library's layout; nothing is computed, so round trips are exact.

    The layouts, where `*k` are the spatial sizes in pixels and groups are contiguous channels:

    | name | shape | taps | read by |
    |---|---|---|---|
    | `'tf'`, `'keras'` | `[*k, out / groups, in]` | | `jdeconv.conv2d_transpose`, `tf.nn`, Keras |
    | `'torch'`, `'onnx'` | `[in, out / groups, *k]` | | `torch.nn.ConvTranspose2d`, ONNX's `ConvTranspose` |
    | `'flax'` | `[*k, in / groups, out]` | flipped | Flax's `ConvTranspose`, `jax.lax.conv_transpose` |
    | `'flax_transposed'` | `[*k, out / groups, in]` | | the same with `transpose_kernel=True` |
    | `'equinox'` | `[out, in / groups, *k]` | flipped | `equinox.nn.ConvTranspose2d` |
    | `'haiku'` | `[*k, out, in / groups]` | flipped | `haiku.Conv2DTranspose` |

    Keras's, Flax's and Haiku's own layers have no groups. For more than one group, the result is what TensorFlow or
    `jax.lax.conv_general_dilated` (with `feature_group_count`) reads in the same order of axes.

    Args:
      kernel: an array with at least one spatial dimension, of any dtype: NumPy's, JAX's (also traced), a PyTorch
        tensor, a variable of TensorFlow, Keras or Flax, or an h5py dataset.
      source, target: names of the table. Default: from PyTorch to TensorFlow.
      groups: how many groups the channels are in. Default 1.

    Returns:
      A JAX array if `kernel` is a JAX array or Flax variable, otherwise a new NumPy array; same dtype, contiguous.

    Raises:
      ValueError: an unknown layout, or channels that are no multiple of `groups`. TypeError: not an array.

    Example:
      >>> import numpy as np
      >>> w = np.arange(12.0).reshape(3, 1, 1, 4)  # PyTorch's [in, out, H, W]
      >>> kernel(w, "torch", "tf").shape
      (1, 4, 1, 3)
      >>> kernel(w, "torch", "flax")[0, :, 0, 0]  # the first input channel's taps, backwards
      array([3., 2., 1., 0.])

    Semantics: each library's own layer gives the same outputs (`tests/convert/test_convert.py`).
    """
    old, new = (layout_named(name, value) for name, value in (("source", source), ("target", target)))
    array = any_array("kernel", kernel)
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
    channels = dict(zip(axis_names(old.conv_transpose, array.ndim), array.shape, strict=True)).get
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
    names: _pairs.Names = None,
    transposed: bool | Collection[str] | None = None,
    ignore: Collection[str] = (),
    copy: Mapping[str, str] | Collection[str] = (),
) -> Any:
    """A model's parameters from one library, as parameters of the same model in another library.

    It renames leaves and moves axes; the libraries themselves read the files. `tree` and `like` are pytrees of arrays,
    for example:

    | library | pytree |
    |---|---|
    | `'torch'` | `module.state_dict()`, `torch.load(path, weights_only=True)` |
    | `'keras'` | `{v.path: v for v in keras.saving.load_model(path).weights}` |
    | `'tf'` | `{v.name: v for v in variables}`; as `tree`, also `tf.saved_model.load(path)` or a `tf.Module` |
    | `'onnx'` | `{t.name: onnx.numpy_helper.to_array(t) for t in initializers}`; as `tree`, also `onnx.load(path)` |
    | `'flax'`, `'flax_transposed'` | linen's variables (or `variables['params']`), an nnx module or its `nnx.state` |
    | `'equinox'` | a module, or the pair (module, state) where it has batch norms |
    | `'haiku'` | the parameters, or `{'params': parameters, 'state': state}` |

    How leaves are read:

    - The leaves whose paths are equal up to the last name form a layer. The common path, joined by `/`, is the layer's
      name; the layer at the root is called `''`.
    - 1-D leaves (biases, scales and offsets of norms, running means and variances, slopes of a PReLU) keep their
      values; Equinox's biases have additional dimensions of 1.
    - A `kernel`, `weight` or `w` of two dimensions is that of a dense layer, or of an embedding where a leaf's name
      says so.
    - A `kernel`, `weight` or `w` of more dimensions is that of a convolution. `transposed` says whether the convolution
      is transposed. Otherwise the layer's class says it, where either tree has modules of Flax's nnx or of Equinox, or
      the node of an ONNX model. Otherwise the shapes say it, where only one of the two fits. Where both fit and differ,
      an error asks for `transposed`: a name alone decides nothing.
    - Keras's and TensorFlow's depthwise kernels `[*k, in, multiplier]` become kernels with `in` groups, and back.
    - PyTorch's weight norm (`weight_g` and `weight_v`, or a parametrization's `original0` and `original1`) in `tree`
      becomes the kernel that it computes. Spectral norm, other parametrizations, and WeightNorm of Flax and Equinox are
      refused.
    - An ONNX model's nodes say what its initialisers are. A layer has the name of the PyTorch module, from the
      initialisers or the exporter's notes. Exporters fold a batch norm into the convolution before it: then `like` must
      have a convolution with a bias, and no norm.
    - TensorFlow's optimizer variables (`Adam/...`, `iterations`) are skipped. A SavedModel's variable has its own name
      where that is a path and unique, otherwise the path of attributes that leads to it.

    Not moved: the inputs of a dense layer after a flattened image, and the outputs of one before it, whose order
    differs between channels first and channels last. Nor what is no parameter, such as a norm's epsilon and momentum.

    Args:
      tree: the parameters.
      like: the model that takes them: a pytree with all its leaves (arrays or `jax.ShapeDtypeStruct`s).
      source, target: the libraries of `tree` and of `like`, by the names of the table; for Flax also which kernels:
        `'flax_transposed'` for layers with `transpose_kernel=True`.
      names: which layer of `tree` is which of `like`: a mapping or a function from names to names. By default, and for
        layers that a mapping lacks, names are equal in both, apart from a beginning that all names of a tree share.
      transposed: True if all convolutions are transposed, False if none is, or a list of `fnmatch` patterns that match
        the transposed ones' names in `tree`. None (default): as classes, nodes and shapes say.
      ignore: `fnmatch` patterns of leaves of `tree` to leave out. A leaf's name is its whole path, joined by `/`:
        `'lstm/weight_ih_l0'`, `'lstm/*'`. Default: none.
      copy: leaves that are copied as they are; shapes must be equal. A mapping from leaves of `tree` to leaves of
        `like`, or patterns of leaves of `tree` that have the same path in `like`, apart from a beginning that
        all paths of a tree share. Default: none.

    Returns:
      `like` with the values of `tree`, in the dtypes of `like`. Groups follow from the shapes. Haiku's and Equinox's
      batch counters are set as after many batches, so that the statistics are used as they are; PyTorch's counters and
      random states stay.

    Raises:
      ValueError: a leaf that is none of the above, a layer that only one of the two has, a convolution that may be
        transposed or not, a class that contradicts `transposed` or another class, shapes that don't fit, or a pattern
        that matches nothing; the error names it.

    Example:
      >>> import numpy as np
      >>> state_dict = {"up.weight": np.ones((8, 3, 4, 4)), "up.bias": np.zeros(3), "steps": np.array(7)}
      >>> variables = {"params": {"up": {"kernel": np.empty((4, 4, 8, 3)), "bias": np.empty(3)}}}
      >>> tree(state_dict, variables, "torch", "flax", ignore=["steps"])["params"]["up"]["kernel"].shape
      (4, 4, 8, 3)

    Semantics: the same model in each library gives the same outputs (`tests/convert`).
    """
    layouts = layout_named("source", source), layout_named("target", target)
    old, new = _trees.flattened("tree", tree, source), _trees.flattened("like", like, target)
    left_out = _patterns.ignored_paths(old, ignore)
    copied = _patterns.copy_pairs(old, new, copy, left_out)
    copies = _patterns.copied_values(old, new, copied)
    _trees.group_leaves(old, {*left_out, *copied.values()})
    _trees.group_leaves(new, copied)
    _patterns.check_transposed(old, transposed)
    pairs = _pairs.paired(old, new, names)
    moves = _moves.moves(pairs, *layouts, transposed)
    values = {}
    for (giving, taking), move in zip(pairs, moves, strict=True):
        _pairs.check_roles(giving, taking, old.graph)
        values[taking.name] = {role: _moves.moved_leaf(giving, taking, role, move, *layouts) for role in taking.roles}
    return _trees.filled(new, values, copies)
