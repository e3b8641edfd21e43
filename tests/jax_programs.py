"""Programs of JAX, by name: functions of a flat list of arrays, with arguments."""

import functools

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from jax import lax, nn

_generator = np.random.default_rng(11)


def normal(*shape):
    return _generator.normal(size=shape)


def positive(*shape):
    return _generator.uniform(0.4, 1.9, size=shape)


def definite(n):
    matrix = normal(n, n)
    return matrix @ matrix.T + n * np.eye(n)


def indices(n, *shape):
    return _generator.integers(0, n, size=shape)


def complexes(*shape):
    return normal(*shape) + 1j * normal(*shape)


KEY = np.array([7, 12], np.uint32)


@jax.custom_vjp
def bounded(x):
    return 2 * x


bounded.defvjp(lambda x: (bounded(x), None), lambda _, g: (jnp.clip(g, -0.2, 0.3),))


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


rounded.defjvp(lambda primals, tangents: (jnp.round(primals[0]), 3 * tangents[0]))


def recurrent(x, state, w):
    def step(state, row):
        state = jnp.tanh(row @ w + state)
        return state, state * row.sum()

    return lax.scan(step, state, x)


def attention(x, w):
    q, k, v = jnp.split(x @ w, 3, -1)
    scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ jnp.swapaxes(k, -1, -2), -jnp.inf)
    return nn.softmax(scores / 2) @ v


def pooled(x, w):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = nn.relu(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers))
    window = (1, 2, 2, 1)
    most = lax.reduce_window(y, -jnp.inf, lax.max, window, window, "VALID")
    return most, lax.reduce_window(y, 0.0, lax.add, window, window, "SAME")


def strided(x, w):
    return lax.conv_general_dilated(x, w, (2,), [(1, 2)], rhs_dilation=(2,), feature_group_count=2)


def turned(state, angle, qubit):
    c, s = jnp.cos(angle / 2), 1j * jnp.sin(angle / 2)
    gate = jnp.array([[c, -s], [-s, c]])
    return jnp.moveaxis(jnp.tensordot(gate, state, ((1,), (qubit,))), 0, qubit)


def circuit(angles):
    state = jnp.zeros((2, 2, 2), complex).at[0, 0, 0].set(1)
    for layer in angles:
        for qubit in range(3):
            state = turned(state, layer[qubit], qubit)
        state = state.at[1].set(state[1, ::-1])
    return jnp.abs(state) ** 2, state[0]


def newton(p):
    solve = lambda f, x: lax.fori_loop(0, 30, lambda _, y: y - f(y) / jax.grad(f)(y), x)
    return lax.custom_root(lambda x: x**3 + p[0] * x - p[1], 1.0, solve, lambda g, y: y / g(1.0))


def halved(x):
    return lax.while_loop(lambda c: jnp.abs(c[0]) > 0.1, lambda c: (c[0] / 2, c[1] + 1), (x[0], 0))


def chosen(x):
    y = lax.cond(x.sum() > 0, jnp.sin, lambda x: x**2, x)
    return y + lax.switch(jnp.argmax(x), [jnp.cos, jnp.exp, jnp.tanh], x)


def written(x, i, u):
    return x.at[i].add(u).at[0].set(1.5).at[:, 1].multiply(2.0), x[i] * 3


def integral(x, y):
    bits = (x ^ y, (x << 2) >> 1, jnp.bincount(y, length=7), jnp.gcd(x + 1, y + 1))
    return ((x // (y + 1)) % 3, -x // 3, *bits)


def drawn(key, mean):
    first, second = jax.random.split(jax.random.wrap_key_data(key))
    noise = jax.random.normal(first, (4, 3)) * mean
    kept = jax.random.bernoulli(second, 0.6, (4, 3))
    folded = jax.random.fold_in(second, 5)
    return jnp.where(kept, noise, 0.0), jax.random.gumbel(folded, (3,)) + mean


def statistics(x):
    return x.mean(1), x.var(0), jnp.median(x, 1), jnp.percentile(x, 30.0, axis=0)


def spectra(x):
    y = jnp.fft.rfft(x)
    return jnp.abs(y) ** 2, jnp.fft.irfft(y * 1j), jnp.real(jnp.fft.ifft(jnp.fft.fft(x) * 1j))


def activations(x):
    functions = (
        *(nn.relu, nn.gelu, nn.silu, nn.softplus, nn.elu, nn.selu, nn.leaky_relu, nn.mish),
        *(nn.hard_tanh, nn.relu6, nn.celu, nn.log_sigmoid, nn.soft_sign),
    )
    return sum(f(x) for f in functions)


def cumulated(x):
    return jnp.cumsum(x), jnp.cumprod(1 + 0.1 * x), lax.cumlogsumexp(x), lax.cummax(x, 0, True)


def probabilities(x, s):
    normal_, gamma = jsp.stats.norm.logpdf(x, 0.2, s), jsp.stats.gamma.logpdf(x, s)
    return normal_ + gamma + jsp.stats.t.logpdf(x, s) + jsp.stats.beta.logpdf(x / 3, s, s)


def kalman(y, f):
    def step(carry, row):
        m, p = carry
        m, p = f @ m, f @ p @ f.T + 0.1 * jnp.eye(2)
        s = p + 0.2 * jnp.eye(2)
        gain = jnp.linalg.solve(s, p).T
        return (m + gain @ (row - m), p - gain @ s @ gain.T), jnp.linalg.slogdet(s)[1]

    return lax.scan(step, (jnp.zeros(2), jnp.eye(2)), y)


def factored(m):
    q, r = jnp.linalg.qr(m)
    return jnp.abs(r), q @ r, jnp.linalg.svd(m, compute_uv=False), jnp.linalg.pinv(m)


def hessians(x):
    hessian = jax.hessian(lambda y: jnp.tanh(y).sum() ** 2)(x[0])
    return hessian, jax.vmap(jax.grad(lambda v: jnp.log1p(v @ v)))(x)


def mixed(z, w):
    return jnp.abs(z @ w) ** 2 + jnp.angle(w), jnp.exp(1j * w) * jnp.conj(w)


def looked_up(x, q):
    table = jnp.linspace(-2, 2, 9)
    return jnp.interp(q, table, x), jnp.convolve(x, q, mode="same"), jnp.searchsorted(table, q)


def images(x, q):
    resized = jax.image.resize(x, (9, 8), "bilinear")
    return resized, jsp.ndimage.map_coordinates(x, [q[:, 0] * 2, q[:, 1] * 2], order=1)


def losses(z, y):
    chosen_ = jnp.take_along_axis(nn.log_softmax(z), y[:, None], 1)
    return -chosen_.mean(), (nn.one_hot(y, 5) * z).sum(), lax.top_k(z, 2)[0] ** 2


# By name: the function and its arguments. Those in INTEGER have no derivative.
PROGRAMS = {
    "affine": (lambda x, b: jnp.tanh(x + b).sum(0), normal(5, 3), normal(3)),
    "elementary": (
        lambda x: jnp.log1p(x) * jnp.sqrt(x) / (1 + x**3) + jnp.exp(-x) * x**0.7,
        positive(6),
    ),
    "where": (lambda x: jnp.where(x > 0, jnp.abs(x) ** 1.5, jnp.sin(x)), normal(4, 4)),
    "einsum": (lambda x, y: jnp.einsum("ij,jk,il->kl", x, y, x), normal(4, 6), normal(6, 3)),
    "statistics": (statistics, normal(4, 5)),
    "sorted": (lambda x: jnp.sort(x)[::-1][:3] * jnp.argsort(x)[:3] + x.max(), normal(7)),
    "written": (written, normal(6, 3), indices(6, 4), normal(4, 3)),
    "shifted": (
        lambda x: (jnp.roll(x, 2, 0), jnp.pad(x, 1, mode="reflect"), jnp.tril(x)),
        normal(5, 5),
    ),
    "looked_up": (looked_up, normal(9), normal(5)),
    "cumulated": (cumulated, normal(8)),
    "mixed": (mixed, complexes(3, 3), complexes(3)),
    "spectra": (spectra, normal(16)),
    "segments": (lambda x, s: jax.ops.segment_sum(x, s, 4), normal(10), indices(4, 10)),
    "losses": (losses, normal(4, 5), indices(5, 4)),
    "activations": (activations, normal(4, 8)),
    "attention": (attention, normal(2, 5, 4), normal(4, 12)),
    "pooled": (pooled, normal(2, 6, 6, 3), normal(3, 3, 3, 4)),
    "strided": (strided, normal(2, 4, 9), normal(6, 2, 3)),
    "recurrent": (recurrent, normal(12, 4), normal(4), normal(4, 4)),
    "drawn": (drawn, KEY, normal(3)),
    "images": (images, normal(6, 6), positive(4, 2)),
    "special": (
        lambda x, y: jsp.special.gammaln(x) + jsp.special.digamma(x) + jsp.special.gammainc(x, y),
        positive(5),
        positive(5),
    ),
    "errors": (
        lambda x: jsp.special.erf(x) + jsp.special.erfinv(x / 4) + jsp.special.i1(x),
        normal(5),
    ),
    "probabilities": (probabilities, positive(5), positive(5)),
    "gamma": (lambda k, a: jax.random.gamma(k, a), KEY, positive(4)),
    "triangular": (
        lambda m, b: jsp.linalg.solve_triangular(jnp.linalg.cholesky(m), b, lower=True),
        definite(4),
        normal(4),
    ),
    "solved": (
        lambda m, b: (jnp.linalg.solve(m, b), jnp.linalg.inv(m), jnp.linalg.det(m)),
        normal(4, 4),
        normal(4, 2),
    ),
    "cho_solve": (
        lambda m, b: jsp.linalg.cho_solve(jsp.linalg.cho_factor(m), b),
        definite(4),
        normal(4),
    ),
    "factored": (factored, normal(5, 3)),
    "eigen": (lambda m: jnp.linalg.eigh(m)[0], definite(4)),
    "expm": (jsp.linalg.expm, normal(3, 3)),
    "conjugate_gradients": (
        lambda m, b: jsp.sparse.linalg.cg(lambda v: m @ v, b, tol=1e-12)[0],
        definite(5),
        normal(5),
    ),
    "kalman": (kalman, normal(6, 2), normal(2, 2) / 2),
    "newton": (newton, positive(3)),
    "halved": (halved, normal(2)),
    "chosen": (chosen, normal(3)),
    "hessians": (hessians, normal(3, 3)),
    "bounded": (lambda x: (bounded(x) ** 3 * 5).sum(), normal(5)),
    "rounded": (lambda x: rounded(3 * x) ** 2 + x, normal(5)),
    "rematerialised": (lambda x: jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)) * x)(x), normal(6)),
    "batched_rule": (
        lambda x, w: jax.vmap(lambda r: bounded(jnp.tanh(r * w)).sum() * 9)(x),
        normal(6, 3),
        normal(3),
    ),
    "associative": (
        lambda x: lax.associative_scan(
            lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (jnp.full(9, 0.9), x)
        )[1],
        normal(9),
    ),
    "circuit": (circuit, normal(2, 3)),
    "integral": (integral, indices(50, 12), indices(7, 12)),
    "categorical": (lambda k, z: jax.random.categorical(k, z), KEY, normal(4, 3)),
    "permuted": (lambda k: jax.random.permutation(k, 6), KEY),
}
INTEGER = {"integral", "categorical", "permuted", "halved"}


def flat(name):
    """Return a program with a list of results, and its arguments."""
    function, *arguments = PROGRAMS[name]
    return functools.partial(_flat, function), arguments


def _flat(function, *arguments):
    return jax.tree.leaves(function(*arguments))
