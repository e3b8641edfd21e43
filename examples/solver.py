"""Solvers of SciPy inside of PyTorch and JAX: a differential equation and a root, fitted to data.

Populations of predators and prey follow `scipy.integrate.solve_ivp`, and LBFGS of PyTorch finds the
rates behind noisy counts of them. The gradient is that of the sensitivity equations, by the rule
`Jacobian`, and is compared with differences of solutions; the rates are compared with those behind
the counts, and with what SciPy finds.

The speed of a star that a planet pulls at follows from Kepler's equation, which
`scipy.optimize.brentq` solves. Its derivative is that of the implicit function theorem, and JAX
takes Gauss-Newton steps with it, in a compiled function.

    python examples/solver.py --output solver.png
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, least_squares
from scipy.special import jv
from torch import Tensor

from bridge import numpy2jax, numpy2torch
from bridge.rules import FiniteDifference, Jacobian

RATES = np.array([1.0, 0.5, 1.2, 0.4])  # births, losses to predators, deaths, gains from prey
NAMES = ("births", "losses", "deaths", "gains")
START = np.array([2.0, 1.0])
TIMES = np.linspace(0.4, 16, 40)
NOISE = 0.1

# Half the range of speeds, eccentricity, period, time and direction of the closest approach.
ORBIT = np.array([1.0, 0.6, 5.0, 1.0, 0.8])
PARTS = ("speed", "eccentricity", "period", "time", "direction")
SPEED_NOISE = 0.05


def solve(slope: Callable[[float, np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    """The solution of `y' = slope(t, y)` at all times, of shape (times, len(start))."""
    span = (0.0, TIMES[-1])
    found = solve_ivp(slope, span, start, "DOP853", t_eval=TIMES, rtol=1e-10, atol=1e-10)
    return found.y.T


def changes(populations: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """How fast the two populations change: the equations of Lotka and Volterra."""
    prey, predators = populations
    births, losses, deaths, gains = rates
    return np.array([(births - losses * predators) * prey, (gains * prey - deaths) * predators])


def populations(rates: np.ndarray) -> np.ndarray:
    """Prey and predators at all times, of shape (times, 2)."""
    return solve(lambda _, y: changes(y, rates), START)


def sensitivities(rates: np.ndarray) -> np.ndarray:
    """The derivative of `populations`, of shape (times, 2, 4), solved for along with them."""
    births, losses, deaths, gains = rates

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        (prey, predators), s = state[:2], state[2:].reshape(2, 4)
        by_populations = np.array(
            [
                [births - losses * predators, -losses * prey],
                [gains * predators, gains * prey - deaths],
            ]
        )
        pairs = prey * predators
        by_rates = np.array([[prey, -pairs, 0, 0], [0, 0, -predators, pairs]])
        return np.append(changes(state[:2], rates), by_populations @ s + by_rates)

    return solve(slope, np.append(START, np.zeros(8)))[:, 2:].reshape(-1, 2, 4)


model = numpy2torch(populations, gradient=Jacobian(sensitivities))
by_differences = numpy2torch(populations, gradient=FiniteDifference(accuracy=4))


def loss(model: Any, logarithms: Tensor, counts: Tensor) -> Tensor:
    """Half the squared distance to `counts`, in units of the noise; the rates stay positive."""
    return ((model(logarithms.exp()) - counts) / NOISE).square().sum() / 2


def fit_rates(counts: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """The rates that LBFGS finds, and the loss at each evaluation of it."""
    logarithms = torch.full((4,), math.log(0.7), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithms], max_iter=steps, line_search_fn="strong_wolfe")
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, logarithms, counts)
        value.backward()
        losses.append(value.item())
        return value

    optimizer.step(closure)
    return logarithms.detach().exp(), losses


def gradients(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient by the sensitivity equations and by differences, away from the minimum."""
    logarithms = torch.full((4,), math.log(0.9), dtype=torch.float64, requires_grad=True)
    values = [loss(rule, logarithms, counts) for rule in (model, by_differences)]
    first, second = (torch.autograd.grad(value, logarithms)[0] for value in values)
    return first, second


def rates_by_scipy(counts: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The rates that `least_squares` finds, without a bridge."""

    def excess(rates: np.ndarray) -> np.ndarray:
        return (populations(rates) - counts).ravel()

    def slopes(rates: np.ndarray) -> np.ndarray:
        return sensitivities(rates).reshape(-1, 4)

    by_scipy: Any = least_squares  # its types leave out that `jac` may be a function
    return by_scipy(excess, start, slopes, xtol=1e-12, ftol=1e-12, gtol=1e-12).x


def rate_errors(rates: np.ndarray) -> np.ndarray:
    """The standard errors of the rates that the noise of the counts leaves."""
    slopes = sensitivities(rates).reshape(-1, 4)
    return NOISE * np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))


def anomaly(mean: Any, eccentricity: Any) -> Any:
    """The root E of Kepler's equation, `E - eccentricity * sin(E) = mean`."""

    def excess(e: float) -> Any:
        return e - eccentricity * math.sin(e) - mean

    return brentq(excess, mean - 1, mean + 1, xtol=1e-14)


def anomaly_slopes(mean: Any, eccentricity: Any) -> tuple[Any, Any]:
    """Its derivatives by both arguments, from the implicit function theorem."""
    e = anomaly(mean, eccentricity)
    by_root = 1 - eccentricity * math.cos(e)
    return 1 / by_root, math.sin(e) / by_root


# JAX computes in 32 bits here, and the solver in 64.
kepler = numpy2jax(anomaly, gradient=Jacobian(anomaly_slopes), dtype="float64", out=np.float32(0))


def star_speed(orbit: jax.Array, t: jax.Array) -> jax.Array:
    """The speed of the star along the line of sight at the time `t`."""
    speed, eccentricity, period, closest, direction = orbit
    e = kepler(2 * jnp.pi * (t - closest) / period, eccentricity)
    x, y = jnp.cos(e) - eccentricity, jnp.sqrt(1 - eccentricity**2) * jnp.sin(e)
    angle = jnp.arctan2(y, x) + direction
    return speed * (jnp.cos(angle) + eccentricity * jnp.cos(direction))


star_speeds = jax.vmap(star_speed, in_axes=(None, 0))


@jax.jit
def gauss_newton(orbit: jax.Array, t: jax.Array, speeds: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The orbit after one step, and the standard errors that the data leave."""
    slopes = jax.jacobian(star_speeds)(orbit, t)
    step = jnp.linalg.lstsq(slopes, speeds - star_speeds(orbit, t))[0]
    spread = SPEED_NOISE * jnp.sqrt(jnp.diag(jnp.linalg.inv(slopes.T @ slopes)))
    return orbit + step, spread


def kepler_error() -> float:
    """The largest error of the slope of the root by its mean anomaly, against a Fourier series.

    The series is `1 + sum_n 2 J_n(n e) cos(n mean)`, with Bessel functions J_n and no root.
    """
    means, eccentricity, n = np.linspace(0, 6, 25), 0.3, np.arange(1, 60)
    exact = 1 + (2 * jv(n, n * eccentricity) * np.cos(np.outer(means, n))).sum(1)
    slope = jax.vmap(jax.grad(kepler), in_axes=(0, None))
    return float(np.abs(slope(jnp.asarray(means), jnp.float32(eccentricity)) - exact).max())


def draw_populations(axes: Axes, counts: Tensor, rates: np.ndarray) -> None:
    """The panel of the noisy counts, and the solution for the rates that were found."""
    for name, noisy, fitted in zip(
        ("prey", "predators"), counts.T, populations(rates).T, strict=True
    ):
        (line,) = axes.plot(TIMES, fitted, label=name)
        axes.scatter(TIMES, noisy, s=12, color=line.get_color())
    axes.set(title="solve_ivp in PyTorch", xlabel="time", ylabel="population", ylim=(0, 7))
    axes.legend(frameon=False)


def draw_losses(axes: Axes, losses: list[float]) -> None:
    """The panel of the loss: for the right rates it is about half the number of counts."""
    axes.plot(range(1, len(losses) + 1), losses, marker=".")
    axes.axhline(TIMES.size, color="gray", linewidth=1, label="expected of noise alone")
    axes.set(title="Fit by LBFGS", xlabel="evaluation", ylabel="loss", yscale="log")
    axes.legend(frameon=False)


def draw_star(axes: Axes, orbit: np.ndarray, times: np.ndarray, speeds: np.ndarray) -> None:
    """The panel of the speeds of the star, at their phases in the period that was found."""
    period, closest = orbit[2:4]
    phases = np.linspace(0, 1, 200, dtype=np.float32)
    fitted = star_speeds(jnp.asarray(orbit), jnp.asarray(closest + period * phases))
    axes.plot(phases, fitted, label="orbit found")
    axes.scatter((times - closest) / period % 1, speeds, s=12, label="observed")
    axes.set(title="brentq in JAX", xlabel="phase of the orbit", ylabel="speed of the star")
    axes.legend(frameon=False)


def table(names: tuple[str, ...], true: np.ndarray, found: np.ndarray, errors: np.ndarray) -> str:
    """A line for each number: what is behind the data, what was found, and its standard error."""
    lines = [f"{'':15} {'true':>7} {'found':>7} {'error':>7}"]
    for row in zip(names, true, found, errors, strict=True):
        lines.append("{:15} {:7.4f} {:7.4f} {:7.4f}".format(*row))
    return "\n".join(lines)


def fit_populations(counts: Tensor, steps: int, axes: list[Axes]) -> None:
    """Find the rates in PyTorch, and draw and print them."""
    start = time.perf_counter()
    found, losses = fit_rates(counts, steps)
    rates, seconds = found.numpy(), time.perf_counter() - start
    draw_populations(axes[0], counts, rates)
    draw_losses(axes[1], losses)
    by_equations, by_steps = gradients(counts)
    error = float((by_equations / by_steps - 1).abs().max())
    by_scipy = np.abs(rates_by_scipy(counts.numpy(), RATES) / rates - 1).max()
    print(f"populations: LBFGS, {len(losses)} evaluations, {seconds:.1f} s")
    print(table(NAMES, RATES, rates, rate_errors(rates)))
    print(f"loss {losses[-1]:.2f}, of noise alone {TIMES.size} +- {math.sqrt(TIMES.size):.0f}")
    print(f"relative difference of the gradient to finite differences: {error:.1e}")
    print(f"relative difference of the rates to those of SciPy's least_squares: {by_scipy:.1e}")


def fit_orbit(random: np.random.Generator, steps: int, axes: Axes) -> None:
    """Find the orbit in JAX, and draw and print it."""
    times = np.sort(random.uniform(0, 15, 60)).astype(np.float32)
    exact = star_speeds(jnp.asarray(ORBIT, jnp.float32), jnp.asarray(times))
    speeds = exact + SPEED_NOISE * random.standard_normal(len(times)).astype(np.float32)
    orbit, errors = jnp.array([0.8, 0.4, 4.9, 1.2, 0.5], jnp.float32), jnp.zeros(5)
    start = time.perf_counter()
    for _ in range(steps):
        orbit, errors = gauss_newton(orbit, jnp.asarray(times), speeds)
    seconds = time.perf_counter() - start
    draw_star(axes, np.asarray(orbit), times, np.asarray(speeds))
    print(f"orbit: {steps} steps of Gauss and Newton, {seconds:.1f} s")
    print(table(PARTS, ORBIT, np.asarray(orbit), np.asarray(errors)))
    print(
        f"largest error of the slope of the root against its Fourier series: {kepler_error():.1e}"
    )


def main() -> None:
    """Fit both, and save the figure."""
    parser = argparse.ArgumentParser(description="Solvers of SciPy in PyTorch and JAX.")
    parser.add_argument("--output", type=Path, default=Path("solver.png"), help="figure to write")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    noise = NOISE * random.standard_normal((len(TIMES), 2))
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = list(figure.subplots(1, 3))
    fit_populations(
        torch.from_numpy(populations(RATES) + noise), 15 if options.quick else 100, panels
    )
    fit_orbit(random, 6 if options.quick else 10, panels[2])
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
