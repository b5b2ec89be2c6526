"""Kernels and parameter trees from one library's layout to another's."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from .._arguments import described, integer, shown
from .._errors import blames_caller, refusal
from .._facade.arrays import any_array
from . import _moves, _pairs, _patterns, _trees
from ._layouts import ends, layout_named, moved


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
    names: _pairs.Names = None,
    transposed: bool | Collection[str] | None = None,
    ignore: Collection[str] = (),
    copy: Mapping[str, str] | Collection[str] = (),
) -> Any:
    """A model's parameters, kept by one library, in the place of another library's.

    It renames leaves and moves axes; reading files is the libraries' own business. `tree` and `like` are pytrees of
    arrays, for example:

    | library | pytree |
    |---|---|
    | `'torch'` | `module.state_dict()`, `torch.load(path, weights_only=True)` |
    | `'keras'` | `{v.path: v for v in keras.saving.load_model(path).weights}` |
    | `'tf'` | `{v.name: v for v in variables}`; as `tree`, also `tf.saved_model.load(path)` or a `tf.Module` |
    | `'onnx'` | `{t.name: onnx.numpy_helper.to_array(t) for t in initializers}`; as `tree`, also `onnx.load(path)` |
    | `'flax'`, `'flax_transposed'` | linen's variables (or `variables['params']`), an nnx module or its `nnx.state` |
    | `'equinox'` | a module, or the pair (module, state) where it has batch norms |
    | `'haiku'` | the parameters, or `{'params': parameters, 'state': state}` |

    Which leaf is what:

    - A layer is the leaves with one path up to the leaf's name. The path, joined by `/`, is the layer's name; the
      layer at the root is called `''`.
    - 1-D leaves (biases, scales and offsets of norms, running means and variances, slopes of a PReLU) keep their
      values; Equinox's biases have dimensions of 1 beside.
    - A `kernel`, `weight` or `w` of two dimensions is a dense layer's, or an `embeddings` table, as either name says.
    - One of more dimensions is a convolution's. Whether the convolution is transposed, `transposed` says; else the
      class of the layer, where either tree has modules of Flax's nnx or of Equinox, or the node of an ONNX model; else
      the shapes, where only one of the two fits. Where both fit and differ, an error asks for `transposed`: a name
      alone decides nothing.
    - Keras's and TensorFlow's depthwise kernels `[*k, in, multiplier]` become kernels of `in` groups, and back.
    - PyTorch's weight norm (`weight_g` and `weight_v`, or a parametrization's `original0` and `original1`) is computed:
      `tree`'s becomes the kernel that it makes. Spectral norm, other parametrizations, and WeightNorm of Flax and
      Equinox are refused.
    - An ONNX model's nodes say what its initialisers are. A layer has the name of the PyTorch module, as the
      initialisers or the exporter's notes say it. The exporters fold a batch norm into the convolution before it:
      then `like` has a convolution with a bias, and no norm.
    - TensorFlow's variables of optimizers (`Adam/...`, `iterations`) are skipped. A SavedModel's variables have their
      own names where those are paths and differ, else the attributes that lead to them.

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
        `tree` of those that are. None (default): as classes, nodes and shapes say.
      ignore: `fnmatch` patterns of leaves of `tree` to leave out. A leaf's name is its whole path, joined by `/`:
        `'lstm/weight_ih_l0'`, `'lstm/*'`. Default: none.
      copy: leaves that are copied as they are, with equal shapes, whatever their names: a mapping of leaves of `tree`
        to leaves of `like`, or patterns of leaves of `tree` that have the same path in `like`, apart from what all
        paths of a tree begin with. Default: none.

    Returns:
      `like` with the values of `tree`, in the dtypes of `like`. Groups are as the shapes say. Haiku's and Equinox's
      counters of batches say that the statistics have settled; PyTorch's counters and random states stay.

    Raises:
      ValueError: by name, a leaf that is none of the above, a layer that only one of the two has, a convolution of
        which it isn't known whether it is transposed, a class that contradicts `transposed` or another class, shapes
        that don't fit, or a pattern that matches nothing.

    Example:
      >>> import numpy as np
      >>> state_dict = {"up.weight": np.ones((8, 3, 4, 4)), "up.bias": np.zeros(3), "steps": np.array(7)}
      >>> variables = {"params": {"up": {"kernel": np.empty((4, 4, 8, 3)), "bias": np.empty(3)}}}
      >>> tree(state_dict, variables, "torch", "flax", ignore=["steps"])["params"]["up"]["kernel"].shape
      (4, 4, 8, 3)

    Semantics: models in each library with the same outputs (`tests/test_convert_tree.py` and its neighbours).
    """
    layouts = layout_named("source", source), layout_named("target", target)
    old, new = _trees.opened("tree", tree, source), _trees.opened("like", like, target)
    left_out = _patterns.ignored(old, ignore)
    copied = _patterns.copied(old, new, copy, left_out)
    copies = _patterns.copies(old, new, copied)
    _trees.read(old, {*left_out, *copied.values()})
    _trees.read(new, copied)
    _patterns.check_transposed(old, transposed)
    pairs = _pairs.paired(old, new, names)
    moves = _moves.moves(pairs, *layouts, transposed)
    values = {}
    for (giving, taking), move in zip(pairs, moves, strict=True):
        _pairs.check_roles(giving, taking, old.graph)
        values[taking.name] = {role: _moves.value(giving, taking, role, move, *layouts) for role in taking.roles}
    return _trees.filled(new, values, copies)
