"""Weights that a layer computes from other leaves: PyTorch's weight norm is fused, everything else is refused."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from .._call.arrays import any_array
from .._errors import refusal
from .._jax_operations import jnp

_REMOVED = "torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r})"
_CALL = "Call {call} in PyTorch, for each such module of the model in eval mode, and give the new state_dict."
_WITHOUT = "Compute the kernel that the layer uses, and give the tree of the model without {what}."

# By library: patterns of leaves from which a weight is computed, what computes it, and its name in the mend.
_FLAX_NAMES = (
    (r".*/(kernel|embedding)/scale|.*scales/\('\w+',\)", "Flax's WeightNorm", "WeightNorm"),
    (r".*/(kernel|embedding)/(u|sigma)|.*\('\w+', '(u|sigma)'\)", "Flax's SpectralNorm", "SpectralNorm"),
)
_NAMES = {
    "flax": _FLAX_NAMES,
    "flax_transposed": _FLAX_NAMES,
    "haiku": ((r".*/(u0|sigma)", "Haiku's SpectralNorm", "SpectralNorm"),),
}


def check(argument: str, library: str, paths: Collection[str], wrappers: Mapping[str, str]) -> None:
    """Refuses leaves from which a weight is computed, except for PyTorch's weight norm in `tree`."""
    for name, what in wrappers.items():
        if any(path.startswith(f"{name}/") or not name for path in paths):
            owner = "Equinox's" if library == "equinox" else "Flax's"
            raise _refused(argument, name, f"{owner} {what}", _WITHOUT.format(what=what))
    for path in paths:
        if library in ("torch", "onnx") and (found := _pytorch(argument, path, paths)):
            what, call = found
            raise _refused(argument, path, what, _CALL.format(call=call))
        for pattern, what, wrapper in _NAMES.get(library, ()):
            if re.fullmatch(pattern, path):
                raise _refused(argument, path, what, _WITHOUT.format(what=wrapper))


def _pytorch(argument: str, path: str, paths: Collection[str]) -> tuple[str, str] | None:
    """What computes PyTorch's weight from this leaf, and the call that makes it plain; None if it is accepted."""
    module, parametrized, rest = path.rpartition("parametrizations/")
    if parametrized and (not module or module.endswith("/")):
        weight = rest.partition("/")[0]
        whole = f"{module}{parametrized}{weight}/"
        norm = {other for other in paths if other.startswith(whole)} == {f"{whole}original0", f"{whole}original1"}
        if argument == "tree" and weight == "weight" and norm:
            return None
        spectral = f"{whole}0/_u" in paths
        what = "weight norm" if norm else "spectral norm" if spectral else "a parametrization"
        return what, _REMOVED.format(weight=weight)
    start, _, suffix = path.rpartition("_")
    weight = start.rpartition("/")[2]
    if suffix == "orig" and f"{start}_mask" in paths:
        return "a pruned weight", f"torch.nn.utils.prune.remove(module, {weight!r})"
    if suffix == "orig" and f"{start}_u" in paths:
        return "spectral norm", f"torch.nn.utils.remove_spectral_norm(module, {weight!r})"
    if suffix == "g" and f"{start}_v" in paths and (argument, weight) != ("tree", "weight"):
        return "weight norm", f"torch.nn.utils.remove_weight_norm(module, {weight!r})"
    return None


def _refused(argument: str, name: str, what: str, mend: str) -> Exception:
    return refusal(
        ValueError,
        argument,
        f"{{{name!r}: ...}}",
        f"{what}, which computes the weight from other leaves",
        "expected weights as layers use them, or PyTorch's weight norm in tree",
        mend,
    )


def fuse(argument: str, name: str, leaves: dict[str, Any]) -> None:
    """Replaces magnitude and direction among a layer's leaves by the weight that they give."""
    magnitude, direction = leaves.pop("magnitude", None), leaves.pop("direction", None)
    if magnitude is None and direction is None:
        return
    if magnitude is None or direction is None or "weight" in leaves:
        raise refusal(
            ValueError,
            argument,
            f"layer {name!r}",
            "has a part of weight norm's two tensors, or a weight beside them",
            "expected weight_g and weight_v, or original0 and original1",
            "Give the whole state_dict.",
        )
    leaves["weight"] = _fused_weight(argument, name, *(any_array(argument, leaf) for leaf in (magnitude, direction)))


def _fused_weight(argument: str, name: str, magnitude: Any, direction: Any) -> Any:
    """PyTorch's weight norm: `magnitude * direction / norm(direction)`, over the axes where `magnitude` has size 1.

    A scalar `magnitude` is PyTorch's `dim=None`: the norm of the whole tensor.
    """
    wide = (1,) * direction.ndim if magnitude.ndim == 0 else magnitude.shape
    kept = [axis for axis, size in enumerate(wide) if size != 1]
    if len(wide) != direction.ndim or any(wide[axis] != direction.shape[axis] for axis in kept) or len(kept) > 1:
        raise refusal(
            ValueError,
            argument,
            f"layer {name!r}",
            f"weight norm's magnitude has shape {list(magnitude.shape)}, its direction {list(direction.shape)}",
            "expected a magnitude with sizes of 1 but for one axis",
            _CALL.format(call=_REMOVED.format(weight="weight")),
        )
    traced = isinstance(magnitude, jax.Array) or isinstance(direction, jax.Array)
    numbers: Any = jnp if traced else np
    precise = jnp.promote_types(direction.dtype, "float32") if traced else "float64"
    g, v = (numbers.asarray(array, precise) for array in (magnitude.reshape(wide), direction))
    axes = tuple(axis for axis in range(direction.ndim) if axis not in kept)
    with np.errstate(divide="ignore", invalid="ignore"):  # a direction of zeros gives NaN, as in PyTorch
        return (v * (g / numbers.sqrt((v * v).sum(axes, keepdims=True)))).astype(direction.dtype)
