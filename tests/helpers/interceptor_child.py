"""A process of tests/core/test_interceptors.py, in which jdeconv is imported while an interceptor is active."""

import itertools
import sys

import interceptors
import jax
import numpy as np


def by_definition(x, w, y, stride=2, low=1):
    """(y, gradients of x and w) in float64, tap by tap: kernel 4, stride 2, SAME, of which one row is cut off."""
    n, i = x.shape[0], x.shape[1]
    padded = np.zeros((n, i * stride + 2 * low, i * stride + 2 * low, w.shape[2]))
    cotangent = np.pad(y, [(0, 0), (low, low), (low, low), (0, 0)])
    x_bar, w_bar = np.zeros(x.shape), np.zeros(w.shape)
    for a, b in itertools.product(range(4), repeat=2):
        reached = np.s_[:, a : a + i * stride : stride, b : b + i * stride : stride]
        padded[reached] += x @ w[a, b].T
        x_bar += cotangent[reached] @ w[a, b]
        w_bar[a, b] = np.einsum("nhwo,nhwi->oi", cotangent[reached], x)
    return padded[:, low:-low, low:-low], x_bar, w_bar


def main(kind):
    draw = np.random.default_rng(0).standard_normal
    x, w, y = (draw(shape).astype(np.float32) for shape in ((2, 16, 16, 64), (4, 4, 3, 64), (2, 32, 32, 3)))
    wanted = by_definition(*(v.astype(float) for v in (x, w, y)))

    def all_three(x, w, y):
        out, pull = jax.vjp(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2), x, w)
        return out, *pull(y)

    def check():
        for found in (all_three(x, w, y), jax.jit(all_three)(x, w, y)):
            # Sums of at most 512 products of normal numbers, of the order of 20.
            close = [np.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(found, wanted, strict=True)]
            print("right" if all(close) else f"wrong: {close}")

    with getattr(interceptors, kind)():
        import jdeconv

        check()
    check()


if __name__ == "__main__":
    main(sys.argv[1])
