"""Every kind of call that is refused: what TensorFlow refuses, tried call by call, and what only JAX can be given.

A row changes the good call `conv2d_transpose(x, w, (2, 10, 14, 6), strides=2)`, x (2, 5, 7, 4), w (3, 3, 6, 4). `tf`
says whether TensorFlow refuses it too (the live oracle asks): not where the argument is jdeconv's own, nor where
TensorFlow truncates, converts or skips its checks. The messages stand in tensorflow.txt.
"""

import dataclasses
import pathlib

import numpy as np

X, W = np.zeros((2, 5, 7, 4), np.float32), np.zeros((3, 3, 6, 4), np.float32)
GOOD = {
    "conv1d_transpose": {"input": X[:, 0], "filters": W[0], "output_shape": (2, 14, 6), "strides": 2},
    "conv2d_transpose": {"value": X, "filter": W, "output_shape": (2, 10, 14, 6), "strides": 2},
    "conv3d_transpose": {"input": X[:, None], "filters": W[None], "output_shape": (2, 1, 10, 14, 6),
                         "strides": [1, 2, 2]},
    "conv_transpose": {"input": X, "filters": W, "output_shape": (2, 10, 14, 6), "strides": 2},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Refused:
    change: dict
    tf: bool = True
    function: str = "conv2d_transpose"

    @property
    def call(self):
        return {**GOOD[self.function], **self.change}


def _cast(dtype):
    return {"value": X.astype(dtype), "filter": W.astype(dtype)}


ROWS = {
    "height not reachable": Refused({"output_shape": (2, 11, 14, 6)}),
    "width not reachable": Refused({"output_shape": (2, 10, 15, 6)}),
    "below": Refused({"output_shape": (2, 8, 14, 6)}),
    "negative": Refused({"output_shape": (2, -1, 14, 6)}),
    "VALID": Refused({"output_shape": (2, 10, 15, 6), "padding": "VALID"}),
    "stride 1": Refused({"output_shape": (2, 6, 7, 6), "strides": 1}),
    "three sizes reachable": Refused({"output_shape": (2, 12, 21, 6), "strides": 3}),
    "explicit": Refused({"output_shape": (2, 10, 14, 6), "padding": [[0, 0], [1, 1], [1, 1], [0, 0]], "strides": 1}),
    "nothing left": Refused({"output_shape": (2, 1, 13, 6), "padding": [[0, 0], [9, 9], [1, 1], [0, 0]]}),
    "nothing left by default": Refused({"output_shape": None, "padding": [[0, 0], [9, 9], [1, 1], [0, 0]]}, tf=False),
    "wrong batch": Refused({"output_shape": (3, 10, 14, 6)}),
    "batch -2": Refused({"output_shape": (-2, 10, 14, 6)}),
    "channels no multiple": Refused({"output_shape": (2, 10, 14, 5)}),
    "channels -6": Refused({"output_shape": (2, 10, 14, -6)}),
    "channels 0": Refused({"output_shape": (2, 10, 14, 0)}, tf=False),
    "groups that do not divide": Refused({"filter": W[:, :, :2], "output_shape": (2, 10, 14, 6)}),
    "output_shape of length 3": Refused({"output_shape": (10, 14, 6)}),
    "output_shape of length 0": Refused({"output_shape": ()}),
    "output_shape an int": Refused({"output_shape": 10}),
    "output_shape of floats": Refused({"output_shape": (2.0, 10.0, 14.0, 6.0)}),
    "output_shape a string": Refused({"output_shape": "abcd"}),
    "no value": Refused({"value": None}),
    "no filter": Refused({"filter": None}),
    "value and input": Refused({"input": X}),
    "filter and filters": Refused({"filters": W}),
    "value not an array": Refused({"value": "picture.png"}),
    "rank 3": Refused({"value": X[0]}),
    "rank 5": Refused({"value": X[None]}),
    "filter of rank 3": Refused({"filter": W[0]}),
    "filter's input channels": Refused({"filter": W[..., :3]}),
    "ints beside floats": Refused({"value": np.ones(X.shape, int).tolist()}, tf=False),
    "no height, one row": Refused({"value": X[:, :0], "output_shape": (2, 1, 14, 6)}),
    "no channels, a width not reachable": Refused(
        {"value": X[..., :0], "filter": W[..., :0], "output_shape": (2, 10, 99, 6)}
    ),
    "two dtypes": Refused({"filter": np.float16(W)}, tf=False),
    "bool": Refused(_cast(bool)),
    "int64": Refused(_cast(np.int64)),
    "uint8": Refused(_cast(np.uint8)),
    "int8 alone": Refused(_cast(np.int8)),
    "strides of length 3": Refused({"strides": [2, 2, 1]}),
    "strides of length 0": Refused({"strides": []}),
    "strides 0": Refused({"strides": 0}),
    "strides negative": Refused({"strides": [1, 2, -2, 1]}),
    "strides in N": Refused({"strides": [2, 2, 2, 1]}),
    "strides in C": Refused({"strides": [1, 2, 2, 2]}),
    "strides of floats": Refused({"strides": [1, 2.5, 2.5, 1]}, tf=False),
    "strides a string": Refused({"strides": "2"}),
    "strides a float": Refused({"strides": 2.0}, tf=False),
    "dilations in N": Refused({"dilations": [2, 1, 1, 1]}),
    "dilations in C": Refused({"dilations": [1, 1, 1, 2]}),
    "dilations 0": Refused({"dilations": 0}),
    "dilations of length 3": Refused({"dilations": [1, 2, 2]}),
    "padding lower case": Refused({"padding": "same"}),
    "padding unknown": Refused({"padding": "FOO"}),
    "padding EXPLICIT": Refused({"padding": "EXPLICIT"}),
    "padding None": Refused({"padding": None}),
    "padding of 2 pairs": Refused({"padding": [[1, 1], [1, 1]]}),
    "padding of single entries": Refused({"padding": [[0], [1], [1], [0]]}),
    "padding of ints": Refused({"padding": [0, 1, 1, 0]}),
    "padding of bytes": Refused({"padding": b"SAME"}, tf=False),
    "padding negative": Refused({"padding": [[0, 0], [-1, 1], [1, 1], [0, 0]]}),
    "padding of N": Refused({"padding": [[1, 0], [1, 1], [1, 1], [0, 0]]}),
    "padding of C": Refused({"padding": [[0, 0], [1, 1], [1, 1], [0, 1]]}),
    "padding of floats": Refused({"padding": [[0, 0], [1.5, 1.5], [1, 1], [0, 0]]}, tf=False),
    "data_format unknown": Refused({"data_format": "NHCW"}),
    "data_format of another rank": Refused({"data_format": "NWC"}),
    "data_format a number": Refused({"data_format": 3}),
    "NCHW of an NHWC shape": Refused({"data_format": "NCHW"}, tf=False),
    "method unknown": Refused({"method": "fft"}, tf=False),
    "precision unknown": Refused({"precision": "exact"}, tf=False),
    "precision of three": Refused({"precision": ["high"] * 3}, tf=False),
    "method an array": Refused({"method": np.array(["auto", "lax"])}, tf=False),
    "preferred_element_type of another kind": Refused({"preferred_element_type": "int32"}, tf=False),
    "preferred_element_type no dtype": Refused({"preferred_element_type": "float31"}, tf=False),
    "1-D height": Refused({"output_shape": (2, 15, 6)}, function="conv1d_transpose"),
    "1-D strides of length 2": Refused({"strides": [2, 1]}, function="conv1d_transpose"),
    "1-D data_format": Refused({"data_format": "NHWC"}, function="conv1d_transpose"),
    "1-D rank": Refused({"input": X}, function="conv1d_transpose"),
    "3-D depth": Refused({"output_shape": (2, 2, 10, 14, 6)}, function="conv3d_transpose"),
    "3-D strides of length 2": Refused({"strides": [2, 2]}, function="conv3d_transpose"),
    "3-D data_format": Refused({"data_format": "NCHWD"}, function="conv3d_transpose"),
    "N-D spatial sizes alone": Refused({"output_shape": (10, 14)}, function="conv_transpose"),
    "N-D of length 6": Refused({"output_shape": (2, 10, 14, 6, 1, 1)}, function="conv_transpose"),
    "N-D without input": Refused({"input": None, "output_shape": None}, function="conv_transpose"),
    "N-D rank 2": Refused({"input": X[0, 0]}, function="conv_transpose"),
}
MESSAGES = dict(line.split(" | ", 1) for line in pathlib.Path(__file__).with_suffix(".txt").read_text().splitlines())
