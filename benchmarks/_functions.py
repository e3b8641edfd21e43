"""Functions of different kinds, with float32 arguments, whose derivatives are measured."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_RANDOM = np.random.default_rng(0)
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

Example = tuple[Callable[..., Any], tuple[Any, ...]]


def _normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (_RANDOM.standard_normal(shape) * scale).astype("float32")


def _matrix(rows: int, columns: int) -> np.ndarray:
    return _normal(rows, columns, scale=rows**-0.5)


def _layers(count: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(_matrix(width, width), _normal(width, scale=0.1)) for _ in range(count)]


def _perceptron(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    def perceptron(weights: Any, x: Any) -> Any:
        for matrix, bias in weights:
            x = activation(x @ matrix + bias)
        return x

    return perceptron


def _mean_square(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: jnp.square(function(*xs)).mean()


def _network(weights: Sequence[Any], x: Any) -> Any:
    """Two convolutions, one with batch normalization."""
    first, scale, shift, second, dense = weights
    x = lax.conv_general_dilated(x, first, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)
    x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = jax.nn.relu(x * scale + shift)
    x = lax.conv_general_dilated(x, second, (2, 2), "SAME", dimension_numbers=_DIMENSIONS)
    return jax.nn.relu(x).reshape(len(x), -1) @ dense


def _network_weights() -> tuple[np.ndarray, ...]:
    filters = _normal(3, 3, 1, 16, scale=0.3), _normal(16), _normal(16)
    return *filters, _normal(3, 3, 16, 32, scale=0.1), _matrix(512, 10)


def _attention(weights: Sequence[Any], x: Any) -> Any:
    """Four heads."""
    heads = lambda w: (x @ w).reshape(*x.shape[:2], 4, -1).swapaxes(1, 2)
    queries, keys, values = map(heads, weights[:3])
    scores = jax.nn.softmax(queries @ keys.swapaxes(2, 3) / queries.shape[-1] ** 0.5, axis=-1)
    return (scores @ values).swapaxes(1, 2).reshape(x.shape) @ weights[3]


def _block(weights: Sequence[Any], x: Any) -> Any:
    """Attention and a perceptron, with layer normalization before each."""
    attention, wide, narrow = weights
    x = x + _attention(attention, jax.nn.standardize(x))
    return x + jax.nn.gelu(jax.nn.standardize(x) @ wide) @ narrow


def _recurrent(weights: Sequence[Any], xs: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(h @ weights[0] + x @ weights[1])
        return h, h

    return lax.scan(step, jnp.zeros(xs.shape[1:]), xs)[1]


def _midpoint(matrix: Any, y: Any) -> Any:
    """Fifty steps of the midpoint rule."""

    def step(y: Any, _: Any) -> Any:
        middle = y + 0.05 * jnp.tanh(y @ matrix)
        return y + 0.1 * jnp.tanh(middle @ matrix), None

    return lax.scan(step, y, None, length=50)[0]


def _circuit(weights: Any, angles: Any) -> Any:
    """Expectation values after layers of rotations about Y and Z, and of controlled Z."""
    qubits = angles.shape[-1]

    def rotate(state: Any, qubit: int, about_y: Any, about_z: Any) -> Any:
        cosine, sine = jnp.cos(about_y / 2), jnp.sin(about_y / 2)
        phase = jnp.exp(0.5j * about_z)
        rows = [cosine / phase, -sine / phase, sine * phase, cosine * phase]
        gate = jnp.stack(rows).reshape(2, 2)
        return jnp.moveaxis(jnp.tensordot(gate, state, ((1,), (qubit,))), 0, qubit)

    def one(angles: Any) -> Any:
        state = jnp.zeros((2,) * qubits, "complex64").at[(0,) * qubits].set(1)
        for qubit in range(qubits):
            state = rotate(state, qubit, angles[qubit], 0.0)
        for layer in weights:
            for qubit in range(qubits):
                state = rotate(state, qubit, *layer[qubit])
            for qubit in range(qubits - 1):
                index = [slice(None)] * qubits
                index[qubit] = index[qubit + 1] = 1
                state = state.at[tuple(index)].multiply(-1)
        squares = jnp.square(state.real) + jnp.square(state.imag)
        return jnp.stack([jnp.moveaxis(squares, q, 0)[0].sum() for q in range(qubits)])

    return jax.vmap(one)(angles)


def _polynomials(x: Any) -> Any:
    for _ in range(10):
        x = jnp.clip(1.1 * x + 0.1 * x * x - 0.01 * x * x * x, -2, 2)
    return x


def _transcendental(x: Any) -> Any:
    for _ in range(4):
        x = jnp.sin(x) + jnp.exp(-x * x) * jnp.tanh(x)
    return x


def _newton(a: Any, b: Any) -> Any:
    x = b
    for _ in range(5):
        x = x - (jnp.sin(x) + a * x - b) / (jnp.cos(x) + a)
    return x


def _likelihood(matrix: Any, y: Any) -> Any:
    """Of a Gaussian process."""
    factor = jnp.linalg.cholesky(matrix @ matrix.T + 64 * jnp.eye(64))
    white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    return jnp.log(jnp.diag(factor)).sum() + jnp.square(white).sum() / 2


def _filtered(x: Any) -> Any:
    spectrum = jnp.fft.rfft(x)
    return jnp.abs(jnp.fft.irfft(spectrum * jnp.linspace(1, 0, spectrum.shape[-1]))) ** 1.5


def _attention_weights(width: int) -> list[np.ndarray]:
    return [_matrix(width, width) for _ in range(4)]


_tanh, _relu, _gelu = map(_perceptron, (jnp.tanh, jax.nn.relu, jax.nn.gelu))
_circuit_of_4 = _circuit, (_normal(4, 4, 2), _normal(32, 4))

EXAMPLES: dict[str, Example] = {
    "perceptron 6 x 256, batch 64": (_tanh, (_layers(6, 256), _normal(64, 256))),
    "the same, its loss": (_mean_square(_tanh), (_layers(6, 256), _normal(64, 256))),
    "perceptron 3 x 8, batch 16": (_tanh, (_layers(3, 8), _normal(16, 8))),
    "perceptron 4 x 64, batch 1024": (_relu, (_layers(4, 64), _normal(1024, 64))),
    "perceptron 3 x 512, batch 8": (_gelu, (_layers(3, 512), _normal(8, 512))),
    "loss of perceptron 3 x 16, batch 8192": (
        _mean_square(_relu),
        (_layers(3, 16), _normal(8192, 16)),
    ),
    "convolutions, 64 digits": (_network, (_network_weights(), _normal(64, 8, 8, 1))),
    "attention, 8 x 64 x 64": (_attention, (_attention_weights(64), _normal(8, 64, 64))),
    "attention, 1 x 256 x 32": (_attention, (_attention_weights(32), _normal(1, 256, 32))),
    "transformer block, 8 x 64 x 64": (
        _block,
        ((_attention_weights(64), _matrix(64, 256), _matrix(256, 64)), _normal(8, 64, 64)),
    ),
    "recurrent, 50 steps of 32 x 64": (
        _recurrent,
        ([_matrix(64, 64), _matrix(64, 64)], _normal(50, 32, 64)),
    ),
    "circuit of 4 qubits, batch 32": _circuit_of_4,
    "its loss": (_mean_square(_circuit), _circuit_of_4[1]),
    "40 additions and products of 1e5": (_polynomials, (_normal(100_000),)),
    "12 transcendental of 1e5": (_transcendental, (_normal(100_000),)),
    "12 transcendental of 100": (_transcendental, (_normal(100),)),
    "log-sum-exp of 256 x 1024": (
        lambda x: jax.nn.logsumexp(x, axis=-1),
        (_normal(256, 1024),),
    ),
    "sum of squares of 1e6": (lambda x: jnp.square(x).sum(), (_normal(1_000_000),)),
    "Newton, 5 steps of 1e4": (_newton, (abs(_normal(10_000)) + 2, _normal(10_000))),
    "midpoint rule, 50 steps of 16 x 8": (_midpoint, (_matrix(8, 8), _normal(16, 8))),
    "likelihood of a Gaussian process of 64": (_likelihood, (_normal(64, 64), _normal(64))),
    "filter by FFT of 64 x 512": (_filtered, (_normal(64, 512),)),
}
