"""Values that functions of MLX capture: each with how it is read, and how it is changed."""

import mlx.core as mx


class Setting:
    factor = 1.0


def number():
    setting = Setting()
    return (lambda: setting.factor), lambda k: setattr(setting, "factor", k)


def written_in_place():
    w = mx.array([1.0, 1.0])

    def change(k):
        w[:] = k

    return (lambda: w), change
