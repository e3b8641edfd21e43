"""Samples of layers, activations and losses of MLX, beside those of all operators."""

import mlx.core as mx
import mlx.nn as nn

from tests.suites.mlx_operators import OPERATORS
from tests.suites.mlx_samples import ROWS, positive, real, sample

mx.random.seed(7)  # weights of layers

# Where no activation has a corner.
SMOOTH = mx.array([[-2.3, -1.4, -0.7, -0.25], [0.2, 0.35, 0.75, 1.3], [1.6, 2.4, 3.6, 6.4]])
ACTIVATIONS = [
    *("celu", "elu", "gelu", "gelu_approx", "gelu_fast_approx", "hard_shrink", "hard_tanh"),
    *("hardswish", "leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu", "relu2", "relu6"),
    *(
        "selu",
        "sigmoid",
        "silu",
        "softmax",
        "softmin",
        "softplus",
        "softshrink",
        "softsign",
        "tanh",
    ),
]
SAMPLES = OPERATORS | {
    f"nn.{name}": sample(getattr(nn, name), SMOOTH) for name in ACTIVATIONS if hasattr(nn, name)
}
SAMPLES |= {
    "nn.glu": sample(nn.glu, real(3, 4)),
    "nn.prelu": sample(nn.prelu, real(3, 4), real(4)),
    "nn.losses.binary_cross_entropy": sample(
        lambda x, y: nn.losses.binary_cross_entropy(x, y), real(3, 4), positive(3, 4) / 2
    ),
    "nn.losses.cosine_similarity_loss": sample(
        lambda x, y: nn.losses.cosine_similarity_loss(x, y), real(3, 4), real(3, 4)
    ),
    "nn.losses.cross_entropy": sample(
        lambda x: nn.losses.cross_entropy(x, ROWS, label_smoothing=0.1), real(3, 4)
    ),
    # Of numbers that do not add up to 1, and by them, it is no derivative: a maximum is stopped.
    "nn.losses.cross_entropy of probabilities": sample(
        lambda x: nn.losses.cross_entropy(x, mx.array([[0.1, 0.2, 0.3, 0.4]] * 3)), real(3, 4)
    ),
    "nn.losses.gaussian_nll_loss": sample(
        lambda x, y, v: nn.losses.gaussian_nll_loss(x, y, v), real(3), real(3), positive(3)
    ),
    "nn.losses.kl_div_loss": sample(
        lambda x, y: nn.losses.kl_div_loss(x, y), real(3, 4), real(3, 4)
    ),
    "nn.losses.nll_loss": sample(lambda x: nn.losses.nll_loss(x, ROWS), real(3, 4)),
    "nn.losses.triplet_loss": sample(
        lambda a, p, n: nn.losses.triplet_loss(a, p, n, margin=5.0),
        real(3, 4),
        real(3, 4),
        real(3, 4),
    ),
    "nn.losses.margin_ranking_loss": sample(
        lambda x, y: nn.losses.margin_ranking_loss(x, y, mx.array([1, -1, 1]), margin=5.0),
        real(3),
        real(3),
    ),
}
SAMPLES |= {
    f"nn.losses.{name}": sample(getattr(nn.losses, name), real(3, 4), real(3, 4))
    for name in (
        "hinge_loss",
        "huber_loss",
        "l1_loss",
        "log_cosh_loss",
        "mse_loss",
        "smooth_l1_loss",
    )
}
LAYERS = {
    "ALiBi": (nn.ALiBi(), real(1, 2, 3, 3)),
    "AvgPool1d": (nn.AvgPool1d(2), real(2, 4, 3)),
    "AvgPool2d": (nn.AvgPool2d(2, stride=1), real(1, 4, 4, 2)),
    "AvgPool3d": (nn.AvgPool3d(2), real(1, 2, 4, 2, 2)),
    "BatchNorm, evaluated": (nn.BatchNorm(4).eval(), real(3, 4)),
    "Conv1d": (nn.Conv1d(3, 2, 2), real(1, 4, 3)),
    "Conv2d": (nn.Conv2d(3, 4, 2, padding=1), real(1, 4, 3, 3)),
    "Conv3d": (nn.Conv3d(2, 2, 2), real(1, 3, 3, 3, 2)),
    "ConvTranspose1d": (nn.ConvTranspose1d(3, 2, 2), real(1, 4, 3)),
    "ConvTranspose2d": (nn.ConvTranspose2d(3, 2, 2, stride=2), real(1, 3, 3, 3)),
    "ConvTranspose3d": (nn.ConvTranspose3d(2, 2, 2), real(1, 2, 2, 2, 2)),
    "Embedding": (lambda w: mx.take(w, ROWS, axis=0), real(3, 4)),
    "GroupNorm": (nn.GroupNorm(2, 4), real(2, 3, 4)),
    "GRU": (nn.GRU(3, 4), real(2, 5, 3)),
    "InstanceNorm": (nn.InstanceNorm(4), real(2, 3, 4)),
    "LayerNorm": (nn.LayerNorm(4), real(3, 4)),
    "Linear": (nn.Linear(4, 3), real(3, 4)),
    "LSTM": (nn.LSTM(3, 4), real(2, 5, 3)),
    "MaxPool1d": (nn.MaxPool1d(2), real(2, 4, 3)),
    "MaxPool2d": (nn.MaxPool2d(2, stride=1), real(1, 4, 4, 2)),
    "MultiHeadAttention": (nn.MultiHeadAttention(4, 2), real(1, 3, 4)),
    "QuantizedLinear": (nn.QuantizedLinear(64, 8), real(2, 64)),
    "RMSNorm": (nn.RMSNorm(4), real(3, 4)),
    "RNN": (nn.RNN(3, 4), real(2, 5, 3)),
    "RoPE": (nn.RoPE(4), real(2, 3, 4)),
    "SinusoidalPositionalEncoding": (nn.SinusoidalPositionalEncoding(4), real(3)),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(4, 2, 8).eval(), real(1, 3, 4)),
    "Upsample": (nn.Upsample(2, "linear"), real(1, 3, 4, 2)),
}


def _of_one(layer):
    if isinstance(layer, nn.MultiHeadAttention):
        return lambda x: layer(x, x, x)
    takes_mask = isinstance(layer, nn.TransformerEncoderLayer)
    return lambda x: layer(x, None) if takes_mask else layer(x)


SAMPLES |= {f"nn.{name}": sample(_of_one(layer), x) for name, (layer, x) in LAYERS.items()}
