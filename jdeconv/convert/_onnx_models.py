"""An ONNX model's parameters: its nodes say the layer and role of each initialiser, whatever the initialiser's name.

The attributes of `onnx.ModelProto` are read. Of ONNX only `numpy_helper` is imported, for a tensor's numbers.
"""

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._errors import refusal
from ._leaves import LEAVES, words

_ROLES = ("weight", "bias", "running_mean", "running_var")
# Nodes with parameters: the kind of layer, and how many inputs after the first are parameters.
_LAYERS = {
    "Conv": ("conv", 2),
    "ConvTranspose": ("conv_transpose", 2),
    "Gemm": ("dense", 2),
    "MatMul": ("dense", 1),
    "BatchNormalization": ("norm", 4),
    "InstanceNormalization": ("norm", 2),
    "GroupNormalization": ("norm", 2),
    "LayerNormalization": ("norm", 2),
    "RMSNormalization": ("norm", 1),
    "PRelu": ("prelu", 1),
}
# Nodes whose constants are settings (sizes, limits, exponents), not parameters.
_SETTINGS = ("Clip", "Dropout", "Pad", "Pow", "Resize", "Upsample")
# Names that exporters generate.
_GENERATED = re.compile(r"onnx::\w+|_?val_\d+|\d+|/.*_output_\d+")
# Last words of names that tell the layer. `weight_bias` is the bias of a convolution that PyTorch folded a norm into.
_LEAVES = {*(name for leaves in LEAVES.values() for name in leaves if "/" not in name), "weight_bias"}


@dataclasses.dataclass
class Model:
    """Parameters by path; kinds of layers and groups of convolutions by the layer's name."""

    leaves: dict[str, Any] = dataclasses.field(default_factory=dict)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    groups: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Layer:
    """The layer of one node."""

    node: Any
    kind: str
    groups: int | None
    name: str
    named: bool
    """Whether the name comes from an initialiser, not from the node."""
    parameters: dict[str, Any]


def is_model(tree: Any) -> bool:
    return hasattr(tree, "graph") and hasattr(tree.graph, "initializer") and hasattr(tree.graph, "node")


def read(model: Any) -> Model:
    """The parameters; layers have their names in PyTorch, where initialisers or the exporter's notes tell them."""
    return _Graph(model.graph).read()


class _Graph:
    def __init__(self, graph: Any) -> None:
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self.initializers: dict[str, Any] = {}
        for inner in _graphs(graph):
            self.nodes += inner.node
            self.initializers |= {tensor.name: tensor for tensor in inner.initializer}
        self.tensors |= self.initializers
        for node in self.nodes:
            if node.op_type == "Constant" and "value" in (found := _attributes(node)):
                self.tensors[node.output[0]] = found["value"].t
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.used: set[str] = set()

    def read(self) -> Model:
        layers = [layer for node in self.nodes if node.op_type in _LAYERS for layer in self.layer(node)]
        layers += [layer for node in self.nodes if node.op_type == "Gather" for layer in self.embedding(node)]
        model = Model()
        for layer in _distinct(layers):
            model.kinds[layer.name] = layer.kind
            if layer.groups is not None:
                model.groups[layer.name] = layer.groups
            for role, array in layer.parameters.items():
                if (path := f"{layer.name}/{role}" if layer.name else role) in model.leaves:
                    raise _duplicate(path)
                model.leaves[path] = array
        for name, tensor in self.initializers.items():
            if name not in self.used and not self.is_setting(name, tensor):
                model.leaves.setdefault("/".join(words(name)) or name, _array(tensor))
        return model

    def constant(self, name: str) -> tuple[str, Any] | None:
        """The initialiser that a value comes from, and the value; None if it is computed from inputs."""
        if name in self.tensors:
            return name, _array(self.tensors[name])
        node = self.producers.get(name)
        if node is None or node.op_type not in ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"):
            return None
        found = self.constant(node.input[0])
        if found is None or node.op_type == "Identity":
            return found
        origin, array = found
        if node.op_type == "Transpose":
            perm = _attributes(node).get("perm")
            return origin, array.transpose(list(perm.ints) if perm else None)
        return found if array.ndim <= 1 else None  # slopes and scales may have additional dimensions of 1

    def layer(self, node: Any) -> Iterator[_Layer]:
        kind, count = _LAYERS[node.op_type]
        constants: list[Any] = [self.constant(name) if name else None for name in node.input[1 : count + 1]]
        if node.op_type in ("Gemm", "MatMul"):
            if constants[0] is None or constants[0][1].ndim != 2:
                return  # a product of two activations, or a weight that is computed
            constants = self.dense(node, constants)
        elif node.op_type == "InstanceNormalization":
            constants = self.group_norm(node, constants)
        elif node.op_type == "PRelu" and constants[0] is not None:
            origin, slopes = constants[0]
            constants = [(origin, _of_channels(slopes))]
        found = {role: constant for role, constant in zip(_ROLES, constants, strict=False) if constant is not None}
        self.used |= {origin for origin, _ in found.values()}
        own = [name for origin, _ in found.values() if (name := _layer_of(origin)) is not None]
        group = _attributes(node).get("group")
        yield _Layer(
            node,
            kind,
            (group.i if group else 1) if kind.startswith("conv") else None,
            own[0] if own else _scope(node)[0],
            bool(own),
            {role: array for role, (_, array) in found.items()},
        )

    def dense(self, node: Any, constants: list[Any]) -> list[Any]:
        """The weight `[out, in]` and bias of a product with a constant matrix."""
        origin, matrix = constants[0]
        bias = constants[1] if len(constants) > 1 else None
        attributes = _attributes(node)
        if node.op_type == "MatMul":
            return [(origin, matrix.T), self.added_bias(node, matrix.shape[1], _layer_of(origin))]
        matrix = matrix if "transB" in attributes and attributes["transB"].i else matrix.T
        scaled: list[Any] = []
        for name, constant in (("alpha", (origin, matrix)), ("beta", bias)):
            factor = attributes[name].f if name in attributes else 1.0
            scaled.append(constant if constant is None or factor == 1 else (constant[0], constant[1] * factor))
        if bias is not None and bias[1].ndim == 2 and bias[1].shape[0] == 1:
            scaled[1] = scaled[1][0], scaled[1][1][0]
        return scaled

    def added_bias(self, node: Any, size: int, layer: str | None) -> tuple[str, Any] | None:
        """The bias that the next node adds, if the bias's name or scope is this layer's."""
        consumers = self.consumers.get(node.output[0], [])
        if len(consumers) != 1 or consumers[0].op_type != "Add":
            return None
        found = next((self.constant(name) for name in consumers[0].input if name != node.output[0]), None)
        if found is None or found[1].shape != (size,):
            return None
        own = _layer_of(found[0])
        if own is not None:
            return found if layer in (None, own) else None
        of_scope = _GENERATED.fullmatch(found[0]) is not None or found[0].startswith(f"{_scope(node)[0]}/")
        return found if of_scope and _same_scope(node, consumers[0]) else None

    def group_norm(self, node: Any, constants: list[Any]) -> list[Any]:
        """Scale and offset of a GroupNorm, which PyTorch exports as a plain norm between reshapes, a Mul and an Add."""
        plain = all(
            constant is not None and _layer_of(constant[0]) is None and (constant[1] == value).all()
            for constant, value in zip(constants, (1, 0), strict=True)
        )
        if not plain:
            return constants
        self.used |= {origin for origin, _ in constants}
        found: list[Any] = []
        output = node.output[0]
        for wanted in ("Reshape", "Mul", "Add"):
            consumers = self.consumers.get(output, [])
            if len(consumers) != 1 or consumers[0].op_type != wanted:
                return []
            if wanted != "Reshape":
                constant = next((self.constant(name) for name in consumers[0].input if name != output), None)
                if constant is None or not _same_scope(node, consumers[0]):
                    return []
                found.append((constant[0], _of_channels(constant[1])))
            output = consumers[0].output[0]
        return found

    def embedding(self, node: Any) -> Iterator[_Layer]:
        axis = _attributes(node).get("axis")
        tensor = self.initializers.get(node.input[0])
        if tensor is None or len(tensor.dims) != 2 or (axis and axis.i != 0) or _is_setting(tensor):
            return
        self.used.add(node.input[0])
        own = _layer_of(node.input[0])
        yield _Layer(node, "embedding", None, own or _scope(node)[0], own is not None, {"weight": _array(tensor)})

    def is_setting(self, name: str, tensor: Any) -> bool:
        """Whether an initialiser is no parameter: an integer, or a size or limit that an exporter generated."""
        consumers = self.consumers.get(name, [])
        generated = _GENERATED.fullmatch(name) is not None and (
            np.prod(tensor.dims) == 1 or all(node.op_type in _SETTINGS for node in consumers)
        )
        return _is_setting(tensor) or generated


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: attribute for attribute in node.attribute}


def _array(tensor: Any) -> Any:
    return importlib.import_module("onnx.numpy_helper").to_array(tensor)


def _is_setting(tensor: Any) -> bool:
    """Whether it has integers, booleans or strings."""
    return tensor.data_type not in (1, 10, 11, 14, 15, 16)  # FLOAT, FLOAT16, DOUBLE, two complex ones, BFLOAT16


def _of_channels(array: Any) -> Any:
    """`[C, 1, 1]` or `[1, C, 1, 1]` as `[C]`."""
    return array.ravel() if array.size == max(array.shape[:2], default=1) else array


def _duplicate(path: str) -> Exception:
    return refusal(
        ValueError,
        "tree",
        f"{{{path!r}: ...}}",
        "two nodes with parameters that differ have this name",
        "expected one for each",
        "Rename the nodes or their initialisers.",
    )


def _layer_of(name: str) -> str | None:
    """The layer that an initialiser's name tells, if it tells one."""
    if _GENERATED.fullmatch(name):
        return None
    parts = words(re.sub(r":\d+$", "", name))
    return "/".join(parts[:-1]) if parts and parts[-1] in _LEAVES else None


def _scope(node: Any) -> tuple[str, str]:
    """The module of a node, from the exporter's notes or the node's name; and the module with the operation."""
    notes = {note.key: note.value for note in getattr(node, "metadata_props", ())}.get("pkg.torch.onnx.name_scopes")
    if notes:
        *modules, operation = ast.literal_eval(notes)
        parts = words(modules[-1]) if modules else []
        return "/".join(parts) or operation, "/".join((*parts, operation))
    parts = []
    before = ""
    for part in (node.name or node.output[0]).strip("/").split("/"):  # '/net/net.0/Conv' repeats a module's name
        parts += words(part.removeprefix(f"{before}."))
        before = part
    return "/".join(parts[:-1] or parts), "/".join(parts)


def _same_scope(node: Any, other: Any) -> bool:
    return _scope(node)[0] == _scope(other)[0]


def _distinct(layers: list[_Layer]) -> list[_Layer]:
    """Layers with distinct names: several uses of a layer become one.

    Different layers of one name are renamed: by module if a shared weight gave the name, otherwise by operation.
    """
    names: dict[str, list[_Layer]] = {}
    for layer in layers:
        same = names.setdefault(layer.name, [])
        if not any(_merged(other, layer) for other in same):
            same.append(layer)
    for several in names.values():
        for layer in several if len(several) > 1 else ():
            module, operation = _scope(layer.node)
            layer.name = module if layer.named else operation
    return [layer for several in names.values() for layer in several]


def _merged(layer: _Layer, other: _Layer) -> bool:
    """Whether both are the same layer; if so, `layer` gets the parameters of both."""
    common = layer.parameters.keys() & other.parameters.keys()
    one = (layer.kind, layer.groups) == (other.kind, other.groups) and all(
        np.array_equal(layer.parameters[role], other.parameters[role]) for role in common
    )
    if one:
        layer.parameters |= other.parameters
        layer.named |= other.named
    return one
