"""Where the operator may stand in a program: functions of x and w, each with another of JAX's constructs around it."""

import functools

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import lax

import jdeconv

X = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((3, 2, 3)).astype(np.float32)
P = jax.P


def up(x, w, **options):
    return jdeconv.conv1d_transpose(x, w, None, 2, **options)


def loss(x, w):
    return (up(x, w) ** 2).sum()


def scanned(x, w):
    return lax.scan(lambda carry, row: (carry + row.sum(), up(row[None], w)[0]), 0.0, x)


def looped(x, w):
    return lax.fori_loop(0, 3, lambda _, carry: carry + up(x, w).mean(), 0.0)


def until(x, w):
    return lax.while_loop(lambda c: up(c, w).sum() < 5, lambda c: c + 0.1 * up(c, w).mean(), x)


def branching(x, w):
    zero = jax.jit(lambda x: jnp.zeros((x.shape[0], 10, 2)))
    return lax.cond(x.sum() > 100, lambda x: zero(x), lambda x: up(x, w), x)


def switching(x, w):
    return lax.switch(jnp.int32(x.sum()) % 2, [lambda: up(x, w), lambda: 2 * up(x, w)])


@jax.custom_jvp
def own_jvp(x, w):
    return up(x, w)


@own_jvp.defjvp
def _own_jvp(primals, tangents):
    return own_jvp(*primals), up(tangents[0], primals[1]) + up(primals[0], tangents[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def zero_aware_jvp(x, w, factor):
    return factor * up(x, w)


def _zero_aware_jvp(factor, primals, tangents):
    x, w = primals
    terms = [
        factor * up(*pair)
        for pair in ((tangents[0], w), (x, tangents[1]))
        if not any(isinstance(side, jax.custom_derivatives.SymbolicZero) for side in pair)
    ]
    return zero_aware_jvp(x, w, factor), sum(terms)


zero_aware_jvp.defjvp(_zero_aware_jvp, symbolic_zeros=True)


@jax.custom_vjp
def own_vjp(x, w):
    return up(x, w)


own_vjp.defvjp(lambda x, w: (up(x, w), (x, w)), lambda saved, ct: jax.vjp(up, *saved)[1](ct))


@jax.custom_vjp
def fast_gradients_only(x, w):
    """A function with the operator in its rule alone."""
    return lax.conv_transpose(x, w, (2,), "SAME", transpose_kernel=True)


fast_gradients_only.defvjp(
    lambda x, w: (fast_gradients_only(x, w), (x, w)), lambda saved, ct: jax.vjp(up, *saved)[1](ct)
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def zero_aware_vjp(factor, x, w):
    return factor * up(x, w), x


def _zero_aware_fwd(factor, x, w):
    return (factor * up(x.value, w.value), x.value), (x.value, w.value, w.perturbed)


def _zero_aware_bwd(factor, saved, cts):
    assert isinstance(cts[1], jax.custom_derivatives.SymbolicZero)
    x, w, _ = saved
    by_x, by_w = jax.vjp(up, x, w)[1](factor * cts[0])
    return by_x, by_w


zero_aware_vjp.defvjp(_zero_aware_fwd, _zero_aware_bwd, symbolic_zeros=True)


@jax.custom_batching.custom_vmap
def own_vmap(x, w):
    return up(x, w)


@own_vmap.def_vmap
def _own_vmap(size, batched, x, w):
    assert batched == [True, False]
    return up(x.reshape(-1, *x.shape[2:]), w).reshape(size, -1, 10, 2), True


def linear_call(x, w):
    down = lambda w, ct: jax.vjp(up, 0 * X, w)[1](ct)[0]  # noqa: E731
    return jax.custom_derivatives.linear_call(lambda w, x: up(x, w), down, lax.stop_gradient(w), x)


def solved(x, w):
    """In all four functions of a linear solve, the last two of which need not solve to be told apart."""
    matvec = lambda v: v + 0.01 * jdeconv.conv1d_transpose(v, w[:1, :1, :1], None, 1)  # noqa: E731
    solve = lambda matvec, b: matvec(b)  # noqa: E731
    return lax.custom_linear_solve(matvec, x[:, :, :1], solve, transpose_solve=solve)


def mesh(*sizes, kind=jax.sharding.AxisType.Auto):
    return jax.make_mesh(sizes, ("a", "b")[: len(sizes)], (kind,) * len(sizes), devices=jax.devices()[: np.prod(sizes)])


def sharded(x, w):
    rows = jax.shard_map(
        lambda x, w: (up(x, w), lax.psum(loss(x, w), "a")),
        mesh=mesh(2, 2), in_specs=(P("a"), P()), out_specs=(P("a"), P()),
    )  # fmt: skip
    return rows(x, w)


def sharded_gradient(x, w):
    by_w = lambda x, w: lax.psum(jax.grad(loss, 1)(x, lax.pcast(w, "a", to="varying")), "a")  # noqa: E731
    return jax.shard_map(by_w, mesh=mesh(2), in_specs=(P("a"), P()), out_specs=P())(x, w)


def cut_filled_and_empty(x, w):
    """Outputs that lax's program cuts off, or fills with zeros, or knows: under `shard_map` such constants vary too."""

    def parts(x, w):
        cut = jdeconv.torch.conv_transpose1d(x.swapaxes(1, 2), w.transpose(2, 1, 0), padding=2, stride=1)
        filled = jdeconv.conv1d_transpose(x, w, (x.shape[0], 20, 2), 4)
        return cut, filled, up(x[:, :, :0], w[:, :, :0]), jax.grad(loss, 1)(x, w)

    rows, all_rows = P("a"), P()
    whole = jax.shard_map(parts, mesh=mesh(2), in_specs=(rows, all_rows), out_specs=(rows, rows, rows, all_rows))
    return whole(x, w)


def with_state(x, w):
    total = jax.new_ref(jnp.zeros(()))

    def add(_, row):
        total[...] += up(row[None], w).sum()
        return None, None

    lax.scan(add, None, x)
    return total[...]


PLACES = {
    "plain": up,
    "jit": jax.jit(up),
    "jit in jit": jax.jit(lambda x, w: jax.jit(up)(jnp.tanh(x), w)),
    "scan": scanned,
    "fori_loop": looped,
    "while_loop": until,
    "cond": branching,
    "switch": switching,
    "checkpoint": jax.checkpoint(lambda x, w: jnp.tanh(up(x, w))),
    "checkpoint with a policy": jax.checkpoint(up, policy=jdeconv.checkpoint_policies.convolutions_saveable),
    "vmap over the input": lambda x, w: jax.vmap(up, (0, None))(x[:, None], w),
    "vmap over the kernel": lambda x, w: jax.vmap(up, (None, 0))(x, jnp.stack([w, -w])),
    "vmap over both": lambda x, w: jax.vmap(up)(jnp.stack([x, x + 1]), jnp.stack([w, -w])),
    "custom_jvp": own_jvp,
    "custom_jvp in jit": jax.jit(own_jvp),
    "custom_jvp with symbolic zeros": lambda x, w: zero_aware_jvp(x, w, 2.0),
    "custom_vjp": own_vjp,
    "custom_vjp in jit": jax.jit(own_vjp),
    "custom_vjp in scan": lambda x, w: lax.scan(lambda c, row: (c, own_vjp(row[None], w)), 0.0, x)[1],
    "custom_vjp whose rule alone has it": fast_gradients_only,
    "custom_vjp with symbolic zeros": lambda x, w: zero_aware_vjp(2.0, x, w)[0],
    "custom_vmap": own_vmap,
    "linear_call": linear_call,
    "custom_linear_solve": solved,
    "shard_map": sharded,
    "shard_map of a gradient": sharded_gradient,
    "cut, filled or empty in shard_map": cut_filled_and_empty,
    "a ref": with_state,
    "grad": jax.grad(loss, (0, 1)),
    "grad of jit": jax.grad(jax.jit(loss), (0, 1)),
    "grad of custom_vjp": jax.grad(lambda x, w: (own_vjp(x, w) ** 2).sum(), (0, 1)),
    "grad of checkpoint": jax.grad(jax.checkpoint(loss), (0, 1)),
    "jvp": lambda x, w: jax.jvp(up, (x, w), (w[:1, :1, :] + x, 2 * w)),
    "hessian": lambda x, w: jax.hessian(loss, 1)(x[:1], w[:1]),
    "linear_transpose": lambda x, w: jax.linear_transpose(lambda x: up(x, w), x)(up(x, w)),
}  # fmt: skip
