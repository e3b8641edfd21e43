"""Modules of MLX that tests of modules take to other frameworks."""

import mlx.core as mx
import mlx.nn as nn


class Shared(nn.Module):
    """One layer under two names, and in a list."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.layers = [nn.Linear(3, 2), self.first]

    def __call__(self, x):
        return self.layers[0](self.layers[1](mx.tanh(self.again(mx.tanh(self.first(x))))))


class Containers(nn.Module):
    """Modules in dicts and lists, private arrays, and tuples of arrays."""

    def __init__(self):
        super().__init__()
        self.parts = {"in": nn.Linear(3, 4), "rest": [nn.Linear(4, 2), {"scale": mx.ones(2) * 1.5}]}
        self._private = mx.array([0.5, 2.0])
        self.constants = (mx.array([3.0, 4.0]),)
        self.activation, self.dtype = nn.relu, mx.float32

    def __call__(self, x):
        layer, scale = self.parts["rest"]
        y = layer(self.activation(self.parts["in"](x))) * scale["scale"]
        return y.astype(self.dtype) * self._private * self.constants[0]


class Adapted(nn.Module):
    """A frozen layer with low-rank weights of its own, as LoRA has."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(3, 2).freeze()
        self.lora_a, self.lora_b = mx.random.normal((3, 1)), mx.random.normal((1, 2))

    def __call__(self, x):
        return self.base(x) + x @ self.lora_a @ self.lora_b


class Encoder(nn.Module):
    """A transformer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerEncoder(1, 4, 2, 8)
        self.head = nn.Linear(4, 2)

    def __call__(self, x):
        return self.head(self.inner(mx.concatenate([x, x[..., :1]], -1)[None], None)[0])


class Compiled(nn.Module):
    """A layer with a function that MLX has compiled."""

    def __init__(self):
        super().__init__()
        self.layer, self.function = nn.Linear(3, 2), mx.compile(lambda x: mx.tanh(x) * 2)

    def __call__(self, x):
        return self.function(self.layer(x))


def quantized():
    """A layer with packed integers."""
    net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))
    nn.quantize(net, group_size=32, class_predicate=lambda path, _: path == "layers.2")
    return net


def normalized():
    """A network with running statistics."""
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm(5), nn.Tanh(), nn.Linear(5, 2))


MODULES = {
    "shared": Shared,
    "containers": Containers,
    "adapted": Adapted,
    "encoder": Encoder,
    "compiled": Compiled,
    "quantized": quantized,
    "normalized": normalized,
    "convolution": lambda: nn.Sequential(
        lambda x: x[None, :, None], nn.Conv2d(3, 4, 1), nn.MaxPool2d((2, 1)), lambda x: x[0, :, 0]
    ),
    "recurrent": lambda: nn.Sequential(nn.GRU(3, 2)),
    "recurrent with two results": lambda: nn.LSTM(3, 2),
}
