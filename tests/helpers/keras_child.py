"""Keras in a process of its own, as it reads its backend once: `python keras_child.py torch`, or tensorflow.

Reads pickled `(inputs, kernel, cotangent, arguments)` and writes pickled answers: the result and, where there is a
cotangent, both gradients; or the error's text. `("data_format", name)` sets the configured format.
"""

import os
import pickle
import sys


def answer(backend, request):
    import keras

    if len(request) == 2:
        keras.config.set_image_data_format(request[1])
        return []
    inputs, kernel, cotangent, arguments = request
    x, w = (keras.ops.convert_to_tensor(array, dtype=array.dtype.name) for array in (inputs, kernel))
    if cotangent is None:
        return [keras.ops.convert_to_numpy(keras.ops.conv_transpose(x, w, **arguments))]
    y_bar = keras.ops.convert_to_tensor(cotangent, dtype=cotangent.dtype.name)
    if backend == "torch":
        import torch

        y = keras.ops.conv_transpose(x.requires_grad_(), w.requires_grad_(), **arguments)
        return [y.detach().numpy(), *(gradient.numpy() for gradient in torch.autograd.grad(y, [x, w], y_bar))]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = keras.ops.conv_transpose(x, w, **arguments)
    return [y.numpy(), *(gradient.numpy() for gradient in tape.gradient(y, [x, w], output_gradients=y_bar))]


def main():
    os.environ.update(KERAS_BACKEND=sys.argv[1], TF_ENABLE_ONEDNN_OPTS="0", TF_CPP_MIN_LOG_LEVEL="3")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the frameworks print is no answer
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = answer(sys.argv[1], request)
        except Exception as error:
            reply = f"{type(error).__name__}: {error}"
        pickle.dump(reply, answers)
        answers.flush()


if __name__ == "__main__":
    main()
