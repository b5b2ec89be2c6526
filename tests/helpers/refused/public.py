"""Every public function but TensorFlow's rows (tensorflow.py): what is refused, argument by argument.

A row changes the good call. The messages stand in public.txt, in the same order. A `Traced` argument is not known when
the function is traced.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from refused import tensorflow


@dataclasses.dataclass(frozen=True)
class Traced:
    """In a row: an abstract array of that value's type, as inside jit."""

    value: Any


X, W = np.zeros((2, 4, 5, 7), np.float32), np.zeros((4, 3, 3, 2), np.float32)
LAST = np.moveaxis(X, 1, -1)
KEY = jax.random.key(0)
STATE = {"up.weight": np.ones((8, 3, 4, 4)), "up.bias": np.zeros(3)}
VARIABLES = {"params": {"up": {"kernel": np.empty((4, 4, 8, 3)), "bias": np.empty(3)}}}
GOOD = {
    "torch.conv_transpose1d": dict(input=X[..., 0], weight=W[..., 0]),
    "torch.conv_transpose2d": dict(input=X, weight=W),
    "torch.conv_transpose3d": dict(input=X[..., None], weight=W[..., None]),
    "onnx.conv_transpose": dict(X=X, W=W),
    "keras.conv_transpose": dict(inputs=LAST, kernel=np.zeros((3, 2, 6, 4), np.float32), data_format="channels_last"),
    **{name: tensorflow.GOOD[name] for name in ("conv1d_transpose", "conv2d_transpose", "conv3d_transpose")},
    "conv_transpose": tensorflow.GOOD["conv_transpose"],
    "autotune": dict(f=tuple),
    "explain": tensorflow.GOOD["conv2d_transpose"],
    "lax.conv_transpose": dict(lhs=LAST, rhs=np.zeros((3, 3, 4, 6), np.float32), strides=(2, 2), padding="SAME"),
    "lax.conv_general_dilated": dict(
        lhs=X, rhs=np.zeros((6, 4, 3, 3), np.float32), window_strides=(2, 2), padding="SAME"
    ),
    "output_sizes": dict(input_size=(5, 7), kernel_size=3, strides=2),
    "overlap": dict(input_size=(5, 7), kernel_size=3, strides=2),
    "patch": dict(),
    "to_lax": dict(function=len),
    "use_onednn": dict(enabled=True),
    "use_tuning": dict(tuning=None),
    "convert.kernel": dict(kernel=W),
    "convert.tree": dict(tree=STATE, like=VARIABLES, transposed=True),
    "initializers.bilinear": dict(shape=(4, 4, 2, 2)),
    "initializers.bicubic": dict(shape=(8, 8, 2, 2)),
    "initializers.icnr": dict(key=KEY, shape=(4, 4, 2, 2)),
    "linen.ConvTranspose": dict(),
    "nnx.ConvTranspose": dict(),
    "equinox.ConvTranspose2d": dict(x=np.zeros((3, 5, 5), np.float32)),
}
# What every function of TensorFlow's form refuses alike, spelt as each spells it.
OPTIONS = {
    "padding unknown": dict(padding="same"),
    "padding a number": dict(padding=1),
    "strides 0": dict(strides=0),
    "strides traced": dict(strides=Traced(np.int32(2))),
    "strides beyond 31 bits": dict(strides=10**20),
    "dilations a string": dict(dilations="2"),
    "dilations beyond 31 bits": dict(dilations=2**31),
    "output_shape an int": dict(output_shape=10),
    "output_shape traced": dict(output_shape=Traced(np.zeros(4, np.int32))),
    "data_format unknown": dict(data_format="NC"),
    "data_format an array": dict(data_format=np.array(["NWC", "NCW"])),
    "name a number": dict(name=3),
    "precision a number": dict(precision=2),
    "precision a bool": dict(precision=True),
    "preferred_element_type narrower in kind": dict(preferred_element_type="int32"),
    "preferred_element_type a number": dict(preferred_element_type=2.0),
    "method None": dict(method=None),
}
PYTORCH = {
    "input None": dict(input=None),
    "weight None": dict(weight=None),
    "bias a string": dict(bias="zeros"),
    "stride 0": dict(stride=0),
    "padding negative": dict(padding=-1),
    "output_padding a float": dict(output_padding=1.0),
    "groups 3": dict(groups=3),
    "dilation a string": dict(dilation="2"),
    "precision unknown": dict(precision="exact"),
    "preferred_element_type": dict(preferred_element_type="int32"),
    "method unknown": dict(method="fft"),
}
STEPS = {
    "'2'": "2", "None": None, "nan": float("nan"), "2.0": 2.0, "-1": -1, "complex": 2j, "a set": {2},
    "beyond 31 bits": 2**40, "of strings": ["2", "2"], "nested": [[2], [2]], "an array of floats": np.array([2.0, 2.0]),
    "two-dimensional": np.ones((2, 2), int), "traced": Traced(np.int32(2)), "too many": [1] * 20,
}  # fmt: skip
OPERANDS = {
    "None": None, "a number": 3.0, "a string": "x.png", "bytes": b"x", "ragged": [[1], [2, 3]], "a set": {1},
    "of strings": np.full(X.shape, "a"), "of objects": np.full(X.shape, None), "bool": X.astype(bool),
    "dates": X.astype("M8[s]"), "random keys": KEY, "8-bit floats": jnp.zeros(X.shape, "float8_e4m3fn"),
    "a description": jax.ShapeDtypeStruct(X.shape, "float32"),
    "too large an int": 10**30,
}  # fmt: skip


def each(argument, values, but=()):
    return {f"{argument} {name}": {argument: value} for name, value in values.items() if name not in but}


ROWS = {
    "torch.conv_transpose1d": {
        **PYTORCH,
        "rank": dict(input=X),
        "stride of length 2": dict(stride=(2, 2)),
        "output_padding": dict(output_padding=2, dilation=2),
    },
    "torch.conv_transpose2d": {
        "rank": dict(input=X[0, 0]),
        "weight's rank": dict(weight=W[0]),
        "no weight": dict(weight=None),
        "two dtypes": dict(weight=W.astype("float16")),
        "int64": dict(input=X.astype("int64")),
        "empty input": dict(input=X[..., :0]),
        "no channels": dict(input=X[:, :0], weight=W[:0]),
        "empty kernel": dict(weight=W[..., :0]),
        "weight's input channels": dict(weight=W[:3]),
        "stride 0": dict(stride=0),
        "stride a float": dict(stride=1.5),
        "stride None": dict(stride=None),
        "stride of length 3": dict(stride=(1, 1, 1)),
        "dilation 0": dict(dilation=0),
        "padding negative": dict(padding=-1),
        "padding a string": dict(padding="same"),
        "nothing left": dict(padding=(4, 5)),
        "output_padding": dict(stride=(2, 3), output_padding=2),
        "output_padding negative": dict(output_padding=-1),
        "groups 0": dict(groups=0),
        "groups that do not divide": dict(groups=3),
        "groups None": dict(groups=None),
        "bias of another size": dict(bias=np.zeros(4, np.float32)),
        "bias of a group": dict(bias=np.zeros(3, np.float32), groups=2),
        "bias of two dimensions": dict(bias=np.zeros((1, 3), np.float32)),
        "bias of another type": dict(bias=np.zeros(3, np.float16)),
        "bias no array": dict(bias="zeros"),
        "method": dict(method="fft"),
        "precision": dict(precision="exact"),
        "preferred_element_type": dict(preferred_element_type="int32"),
        **each("input", OPERANDS, ("None",)),
        **each("weight", OPERANDS, ("None",)),
        **each("bias", OPERANDS, ("None", "a string", "a description")),
        **{k: v for name in ("stride", "padding", "output_padding", "dilation") for k, v in each(name, STEPS).items()},
        **each("groups", STEPS, ("None",)),
        "precision a bool": dict(precision=True),
        "method a number": dict(method=1),
    },
    "torch.conv_transpose3d": {**PYTORCH, "rank": dict(input=X[0]), "nothing left": dict(padding=(0, 0, 1))},
    "onnx.conv_transpose": {
        "rank": dict(X=X[0, 0]),
        "W's rank": dict(W=W[0]),
        "two dtypes": dict(W=W.astype("float16")),
        "input channels": dict(W=W[:3]),
        "empty kernel": dict(W=W[..., :0]),
        "auto_pad unknown": dict(auto_pad="same_upper"),
        "auto_pad and pads": dict(auto_pad="VALID", pads=[0, 0, 0, 0]),
        "pads negative": dict(pads=[0, 0, -1, 0]),
        "pads of length 2": dict(pads=[1, 1]),
        "nothing left": dict(pads=[4, 0, 4, 0]),
        "strides of length 1": dict(strides=[2]),
        "strides 0": dict(strides=[1, 0]),
        "dilations 0": dict(dilations=[0, 1]),
        "output_padding": dict(strides=[2, 2], output_padding=[1, 2]),
        "output_shape negative": dict(output_shape=[-1, 7]),
        "output_shape with channels": dict(output_shape=[2, 3, 7, 8]),
        "kernel_shape": dict(kernel_shape=[3, 3]),
        "kernel_shape of length 1": dict(kernel_shape=[3]),
        "group": dict(group=3),
        "B": dict(B=np.zeros(4, np.float32)),
        "B of another type": dict(B=np.zeros(3, np.float16)),
        **each("X", OPERANDS, ("None",)),
        **each("W", OPERANDS),
        **each("B", OPERANDS, ("None",)),
        **{
            k: v
            for name in ("strides", "pads", "output_padding", "dilations", "kernel_shape", "output_shape")
            for k, v in each(name, STEPS, ("None",)).items()
        },
        **each("group", STEPS),
        "auto_pad None": dict(auto_pad=None),
        "auto_pad a number": dict(auto_pad=0),
        "precision a bool": dict(precision=True),
        "preferred_element_type a number": dict(preferred_element_type=2.0),
        "method a number": dict(method=1),
    },
    "keras.conv_transpose": {
        "rank": dict(inputs=X[0, 0]),
        "kernel's rank": dict(kernel=W[0]),
        "two dtypes": dict(kernel=W.astype("float16")),
        "input channels": dict(kernel=np.zeros((3, 2, 6, 4), np.float32)[..., :3]),
        "empty kernel": dict(kernel=np.zeros((3, 2, 6, 4), np.float32)[:0]),
        "strides of length 1": dict(strides=(2,)),
        "strides 0": dict(strides=0),
        "dilation_rate": dict(dilation_rate=(1, 1, 1)),
        "output_padding negative": dict(output_padding=-1),
        "output_padding of length 1": dict(output_padding=[1]),
        "padding unknown": dict(padding="causal"),
        "padding None": dict(padding=None),
        "data_format": dict(data_format="NHWC"),
        "channels first": dict(data_format="channels_first"),
        **each("inputs", OPERANDS),
        **each("kernel", OPERANDS),
        **{k: v for name in ("strides", "dilation_rate") for k, v in each(name, STEPS).items()},
        **each("output_padding", STEPS, ("None",)),
        "padding a number": dict(padding=1),
        "data_format a number": dict(data_format=1),
        "data_format an array": dict(data_format=np.array(["channels_last"])),
        "precision a bool": dict(precision=True),
        "preferred_element_type a number": dict(preferred_element_type=2.0),
        "method a number": dict(method=1),
    },
    **{
        name: {
            **each("input", OPERANDS, ("a description",) if name != "conv1d_transpose" else ()),
            "filters None": dict(filters=None),
            "filters of other channels": dict(filters=good["filters"][..., :3]),
            **OPTIONS,
        }
        for name, good in tensorflow.GOOD.items()
        if name != "conv2d_transpose"
    },
    "conv2d_transpose": {
        "input beside value": dict(input=LAST),
        "filters beside filter": dict(filters=tensorflow.W),
        "value None": dict(value=None),
        "filter None": dict(filter=None),
        "method that can't": dict(method="taps", dilations=1000),
        "method that can't fill a kernel up": dict(method="gemm", dilations=2**31 - 1),
        **OPTIONS,
    },
    "explain": {
        **each("value", OPERANDS, ("a description",)),
        **each("filter", OPERANDS, ("a description",)),
        "value described, of rank 2": dict(value=jax.ShapeDtypeStruct((5, 4), "float32")),
        "value described, bool": dict(value=jax.ShapeDtypeStruct((2, 5, 7, 4), "bool")),
        "input beside value": dict(input=LAST),
        "filters beside filter": dict(filters=tensorflow.W),
        **OPTIONS,
    },
    "lax.conv_transpose": {
        **each("lhs", OPERANDS),
        **each("rhs", OPERANDS),
        **each("strides", STEPS),
        **each("rhs_dilation", STEPS, ("None",)),
        "padding None": dict(padding=None),
        "padding of floats": dict(padding=[(1.5, 1), (1, 1)]),
        "padding a traced number": dict(padding=Traced(np.int32(1))),
        "padding beyond 31 bits": dict(padding=[(2**31, 1), (1, 1)]),
        "dimension_numbers empty": dict(dimension_numbers=""),
        "dimension_numbers a number": dict(dimension_numbers=4),
        "dimension_numbers an array": dict(dimension_numbers=np.zeros((3, 4))),
        "transpose_kernel a string": dict(transpose_kernel="no"),
        "transpose_kernel traced": dict(transpose_kernel=Traced(np.bool_(True))),
        "use_consistent_padding a number": dict(use_consistent_padding=2),
        "feature_group_count a float": dict(feature_group_count=2.0),
        "feature_group_count None": dict(feature_group_count=None),
        "precision a bool": dict(precision=True),
        "precision unknown": dict(precision="exact"),
        "preferred_element_type": dict(preferred_element_type="int32"),
        "method a number": dict(method=1),
    },
    "lax.conv_general_dilated": {  # jax.lax refuses the arguments that it has
        "method unknown": dict(method="fft"),
        "method None": dict(method=None),
        "method not for batch groups": dict(method="gemm", batch_group_count=2),
    },
    "patch": {
        "only unknown": dict(only="ordinary"),
        "only a number": dict(only=1),
    },
    "output_sizes": {
        **each("input_size", STEPS, ("too many",)),
        **each("kernel_size", STEPS),
        **each("strides", STEPS, ("None",)),
        **each("dilations", STEPS, ("None",)),
        "padding unknown": dict(padding="FULL"),
        "padding None": dict(padding=None),
        "padding of one pair": dict(padding=[(1, 1)]),
        "padding of floats": dict(padding=[(1.5, 1), (1, 1)]),
    },
    "overlap": {
        "input_size a float": dict(input_size=5.0),
        "kernel_size beyond 31 bits": dict(kernel_size=2**63),
        "strides 0": dict(strides=0),
        "dilations 0": dict(dilations=0),
        "padding negative": dict(padding=[(-1, 0), (0, 0)]),
        **each("output_size", STEPS, ("None",)),
        "output_size not reachable": dict(output_size=(10, 15)),
        "output_size, padding that leaves nothing": dict(output_size=(1, 1), padding=[(9, 9), (9, 9)]),
    },
    "to_lax": {"function None": dict(function=None), "function an array": dict(function=X)},
    "use_onednn": {
        "enabled None": dict(enabled=None),
        "enabled a number": dict(enabled=1),
        "enabled a string": dict(enabled="no"),
        "enabled, a word unknown": dict(enabled="off:grouped,striped"),
        "enabled an array": dict(enabled=np.array([True, False])),
    },
    "use_tuning": {
        "tuning a number": dict(tuning=1),
        "tuning a dict": dict(tuning={}),
        "tuning bytes": dict(tuning=b"tuning.json"),
    },
    "autotune": {
        "f None": dict(f=None),
        "f an array": dict(f=X),
        "budget_s a string": dict(budget_s="1 minute"),
        "budget_s None": dict(budget_s=None),
        "budget_s a bool": dict(budget_s=True),
        "budget_s 0": dict(budget_s=0),
        "budget_s undefined": dict(budget_s=float("nan")),
        "progress a number": dict(progress=1),
    },
    "convert.kernel": {
        "kernel None": dict(kernel=None),
        "kernel a string": dict(kernel="model.pt"),
        "kernel ragged": dict(kernel=[[1], [2, 3]]),
        "kernel of objects": dict(kernel=np.full(X.shape, None)),
        "kernel of two dimensions": dict(kernel=W[0, 0]),
        "source unknown": dict(source="pytorch"),
        "source None": dict(source=None),
        "target an array": dict(target=np.array(["tf", "torch"])),
        "target a number": dict(target=2),
        "groups 0": dict(groups=0),
        "groups a float": dict(groups=2.0),
        "groups None": dict(groups=None),
        "groups traced": dict(groups=Traced(np.int32(2))),
        "groups that do not divide": dict(groups=3),
    },
    "convert.tree": {
        "tree None": dict(tree=None),
        "tree empty": dict(tree={}),
        "tree an array": dict(tree=W),
        "tree a file's name": dict(tree="model.pt"),
        "tree of unsortable keys": dict(tree={1: np.ones(1), "a": np.ones(1)}),
        "tree of unknown leaves": dict(tree={"up.gain": W}),
        "like None": dict(like=None),
        "like an array": dict(like=W),
        "source unknown": dict(source="pytorch"),
        "target unknown": dict(target="jax"),
        "names a string": dict(names="up"),
        "names of numbers": dict(names={"up": 1}),
        "names a class": dict(names=int),
        "names a function of no name": dict(names=len),
        "names of no layer": dict(names={"down": "up"}),
        "transposed a string": dict(transposed="up"),
        "transposed a number": dict(transposed=1),
        "transposed of numbers": dict(transposed=[1]),
        "transposed that matches nothing": dict(transposed=["down*"]),
        "ignore a string": dict(ignore="up/*"),
        "ignore of numbers": dict(ignore=[1]),
        "ignore a mapping": dict(ignore={"up/bias": "up/bias"}),
        "ignore that matches nothing": dict(ignore=["down/*"]),
        "copy a string": dict(copy="up/bias"),
        "copy of numbers": dict(copy={"up/bias": 1}),
        "copy that matches nothing": dict(copy=["down/*"]),
        "copy of no leaf": dict(copy={"up/gain": "up/bias"}),
        "copy to no leaf": dict(copy={"up/bias": "up/gain"}),
        "copy of another shape": dict(copy={"up/bias": "up/kernel"}, ignore=["up/weight"]),
    },
    **{
        name: {
            "strides 0": dict(strides=0),
            "strides a float": dict(strides=2.0),
            "strides of length 3": dict(strides=(2, 2, 2)),
            "layout unknown": dict(layout="pytorch"),
            "groups 0": dict(groups=0),
            "groups a string": dict(groups="2"),
            "shape None": dict(shape=None),
            "shape a number": dict(shape=4),
            "shape of floats": dict(shape=(4.0, 4, 2, 2)),
            "shape of two sizes": dict(shape=(4, 4)),
            "shape with a 0": dict(shape=(0, 4, 2, 2)),
            "dtype of integers": dict(dtype=int),
            "dtype unknown": dict(dtype="float31"),
            "dtype a number": dict(dtype=2.0),
            **more,
        }
        for name, more in {
            "initializers.bilinear": {
                "shape that does not fit": dict(shape=(5, 4, 2, 2)),
                "shape of other channels": dict(shape=(4, 4, 3, 2)),
            },
            "initializers.bicubic": {
                "a None": dict(a=None),
                "a nan": dict(a=float("nan")),
                "a complex": dict(a=1j),
                "a two numbers": dict(a=np.array([1.0, 2.0])),
            },
            "initializers.icnr": {
                "shape that does not fit": dict(shape=(5, 4, 2, 2)),
                "shape that does not fit, shuffled": dict(shape=(5, 4, 2, 2), shuffle="depth_to_space"),
                "shape of two sizes, shuffled": dict(shape=(4, 4), shuffle="pixel_shuffle"),
                "key None": dict(key=None),
                "key a number": dict(key=0),
                "initializer a string": dict(initializer="he_normal"),
                "initializer a number": dict(initializer=0),
                "shuffle unknown": dict(shuffle="pixels"),
                "shuffle an array": dict(shuffle=np.array(["depth_to_space"])),
            },
        }.items()
    },
    **{
        name: {
            "output_shape not reachable": dict(output_shape=(11, 18)),
            "output_shape of floats": dict(output_shape=(9.0, 18.0)),
            "output_shape a string": dict(output_shape="same"),
            "output_shape of length 3": dict(output_shape=(1, 9, 18)),
            "output_shape negative": dict(output_shape=-9),
            "output_shape traced": dict(output_shape=Traced(np.int32(9))),
            "output_shape with CIRCULAR padding": dict(output_shape=9, padding="CIRCULAR"),
            "feature_group_count 0": dict(feature_group_count=0),
            "feature_group_count that does not divide": dict(feature_group_count=3),
            "feature_group_count a string": dict(feature_group_count="2"),
            "feature_group_count None": dict(feature_group_count=None),
            "method unknown": dict(method="fft"),
            "method None": dict(method=None),
        }
        for name in ("linen.ConvTranspose", "nnx.ConvTranspose")
    },
    "equinox.ConvTranspose2d": {
        "x None": dict(x=None),
        "x a list": dict(x=[[1.0]]),
        "x with a batch": dict(x=np.zeros((1, 3, 5, 5), np.float32)),
        "output_shape not reachable": dict(output_shape=99),
        "output_shape of floats": dict(output_shape=9.0),
        "output_shape traced": dict(output_shape=Traced(np.int32(9))),
        "output_shape with CIRCULAR padding": dict(output_shape=9, padding="SAME", padding_mode="CIRCULAR"),
        "method unknown": dict(method="fft"),
    },
}
CALLS = {f"{function}, {name}": (function, change) for function, rows in ROWS.items() for name, change in rows.items()}
MESSAGES = dict(line.split(" | ", 1) for line in pathlib.Path(__file__).with_suffix(".txt").read_text().splitlines())
