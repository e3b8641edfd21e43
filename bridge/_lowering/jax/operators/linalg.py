"""Operators that factorize matrices, or compute with factors of matrices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from bridge._core.errors import NoRuleError
from bridge._lowering.jax.operators.lowerings import OutputInfo, lowering

# Torch returns an error code for each matrix, and raises if a factorization failed. A program of
# XLA cannot raise: matrices that are singular, or not positive definite, give infinities or NaN.


def _no_errors(x: Any) -> Any:
    return jnp.zeros(x.shape[:-2], "int32")


def _adjoint(a: Any) -> Any:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _lu(a: Any, *, transposed: bool = False) -> tuple[Any, Any]:
    """Factorize a matrix or its transpose; return factors, in one matrix, and 1-based pivots."""
    factors, pivots, _ = lax.linalg.lu(jnp.swapaxes(a, -1, -2) if transposed else a)
    return factors, pivots + 1


def _permutation(pivots: Any, size: int) -> Any:
    return lax.linalg.lu_pivots_to_permutation(pivots - 1, size)


@lowering("aten.linalg_lu_factor_ex.default")
def _lu_factor(out: OutputInfo, a: Any, *, pivot: bool = True, **_: Any) -> tuple[Any, ...]:
    _check_pivots(pivot=pivot)
    factors, pivots = _lu(a)
    return factors, pivots, _no_errors(a)


@lowering("aten.linalg_lu.default")
def _linalg_lu(out: OutputInfo, a: Any, *, pivot: bool = True) -> tuple[Any, ...]:
    _check_pivots(pivot=pivot)
    factors, pivots = _lu(a)
    return _unpack(factors, pivots)


def _check_pivots(*, pivot: bool) -> None:
    if not pivot:
        raise NoRuleError(
            "an LU factorization with pivot=False has no lowering, since XLA always exchanges "
            "rows, as torch itself does on CPUs. Leave pivot=True, or write the elimination out."
        )


@lowering("aten.lu_unpack.default")
def _lu_unpack(
    out: OutputInfo, factors: Any, pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Any, ...]:
    order, lower, upper = _unpack(factors, pivots)
    empty = jnp.zeros((0,), factors.dtype)
    order = order if unpack_pivots else empty
    return (order, lower, upper) if unpack_data else (order, empty, empty)


def _unpack(factors: Any, pivots: Any) -> tuple[Any, ...]:
    rows, columns = factors.shape[-2:]
    least = min(rows, columns)
    lower = jnp.tril(factors[..., :least], -1) + jnp.eye(rows, least, dtype=factors.dtype)
    order = _permutation(pivots, rows)
    rows_of = jnp.swapaxes(jax.nn.one_hot(order, rows, dtype=factors.dtype), -1, -2)
    return rows_of, lower, jnp.triu(factors[..., :least, :])


def _broadcast(factors: Any, b: Any) -> tuple[Any, Any]:
    lead = jnp.broadcast_shapes(factors.shape[:-2], b.shape[:-2])
    expand = lambda x: jnp.broadcast_to(x, (*lead, *x.shape[-2:]))
    return expand(factors), expand(b)


def _solve_factored(factors: Any, pivots: Any, b: Any, *, adjoint: bool = False) -> Any:
    factors, b = _broadcast(factors, b)
    size = factors.shape[-1]
    pivots = jnp.broadcast_to(pivots, (*factors.shape[:-2], size))
    order = _permutation(pivots, size)[..., None]
    if not adjoint:
        b = jnp.take_along_axis(b, order, -2)
        b = _triangular(factors, b, lower=True, unit=True)
        return _triangular(factors, b, lower=False)
    b = _triangular(factors, b, lower=False, adjoint=True)
    b = _triangular(factors, b, lower=True, unit=True, adjoint=True)
    return jnp.take_along_axis(b, jnp.argsort(order, -2), -2)


def _triangular(a: Any, b: Any, *, lower: bool, unit: bool = False, adjoint: bool = False) -> Any:
    return lax.linalg.triangular_solve(
        a,
        b,
        left_side=True,
        lower=lower,
        transpose_a=adjoint,
        conjugate_a=adjoint,
        unit_diagonal=unit,
    )


@lowering("aten.linalg_lu_solve.default")
def _lu_solve(
    out: OutputInfo, factors: Any, pivots: Any, b: Any, *, left: bool = True, adjoint: bool = False
) -> Any:
    if left:
        return _solve_factored(factors, pivots, b, adjoint=adjoint)
    # X A = B is A^H X^H = B^H.
    solution = _solve_factored(factors, pivots, _adjoint(b), adjoint=not adjoint)
    return _adjoint(solution)


@lowering("aten._linalg_solve_ex.default")
def _solve_ex(out: OutputInfo, a: Any, b: Any, *, left: bool = True, **_: Any) -> tuple[Any, ...]:
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    factors, pivots = _lu(a)
    right = b[..., None] if vector else b
    solution = _lu_solve(out, factors, pivots, right, left=left or vector)
    return solution[..., 0] if vector else solution, factors, pivots, _no_errors(a)


@lowering("aten.linalg_solve_ex.default")
def _linalg_solve_ex(out: OutputInfo, a: Any, b: Any, **options: Any) -> tuple[Any, ...]:
    solution, _, _, info = _solve_ex(out, a, b, **options)
    return solution, info


@lowering("aten.linalg_inv_ex.default")
def _inverse(out: OutputInfo, a: Any, **_: Any) -> tuple[Any, ...]:
    return jnp.linalg.inv(a), _no_errors(a)


@lowering("aten._linalg_det.default")
def _determinant(out: OutputInfo, a: Any, *, transposed: bool = False) -> tuple[Any, ...]:
    factors, pivots = _lu(a, transposed=transposed)
    return _parity(pivots, a.dtype) * _diagonal(factors).prod(-1), factors, pivots


@lowering("aten._linalg_slogdet.default")
def _log_determinant(out: OutputInfo, a: Any, *, transposed: bool = False) -> tuple[Any, ...]:
    factors, pivots = _lu(a, transposed=transposed)
    diagonal = _diagonal(factors)
    size = jnp.abs(diagonal)
    sign = jnp.where(size == 0, 0, diagonal / jnp.where(size == 0, 1, size)).prod(-1)
    return _parity(pivots, a.dtype) * sign, jnp.log(size).sum(-1), factors, pivots


def _diagonal(a: Any) -> Any:
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def _parity(pivots: Any, dtype: Any) -> Any:
    moved = pivots != jnp.arange(1, pivots.shape[-1] + 1)
    return 1 - 2 * (moved.sum(-1) % 2).astype(dtype)


@lowering("aten.linalg_cholesky_ex.default")
def _cholesky(out: OutputInfo, a: Any, *, upper: bool = False, **_: Any) -> tuple[Any, Any]:
    a = _adjoint(a) if upper else a
    factor = lax.linalg.cholesky(a, symmetrize_input=False)
    return _adjoint(factor) if upper else factor, _no_errors(a)


@lowering("aten.cholesky_solve.default")
def _cholesky_solve(out: OutputInfo, b: Any, factor: Any, upper: bool = False) -> Any:
    factor, b = _broadcast(factor, b)
    factor = _adjoint(factor) if upper else factor
    return _triangular(factor, _triangular(factor, b, lower=True), lower=True, adjoint=True)


@lowering("aten.cholesky_inverse.default")
def _cholesky_inverse(out: OutputInfo, factor: Any, upper: bool = False) -> Any:
    return _cholesky_solve(out, jnp.eye(factor.shape[-1], dtype=factor.dtype), factor, upper)


@lowering("aten.linalg_solve_triangular.default")
def _solve_triangular(
    out: OutputInfo, a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    a, b = _broadcast(a, b)
    options = {"left_side": left, "lower": not upper, "unit_diagonal": unitriangular}
    return lax.linalg.triangular_solve(a, b, **options)


@lowering("aten.triangular_solve.default")
def _old_solve_triangular(
    out: OutputInfo,
    b: Any,
    a: Any,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Any, Any]:
    a, b = _broadcast(a, b)
    trans = 1 if transpose else 0
    solve = lambda a, b: solve_triangular(a, b, trans, not upper, unitriangular)
    lead, (rows, columns) = b.shape[:-2], b.shape[-2:]
    solution = jax.vmap(solve)(a.reshape(-1, rows, rows), b.reshape(-1, rows, columns))
    return solution.reshape(*lead, rows, columns), a


@lowering("aten.linalg_qr.default")
def _qr(out: OutputInfo, a: Any, mode: str = "reduced") -> tuple[Any, Any]:
    if mode == "r":
        return jnp.zeros((0,), a.dtype), jnp.linalg.qr(a, "r")
    q, r = jnp.linalg.qr(a, mode)
    return q, r


@lowering("aten._linalg_svd.default")
def _svd(
    out: OutputInfo,
    a: Any,
    full_matrices: bool = False,
    compute_uv: bool = True,
    **_: Any,
) -> tuple[Any, ...]:
    if compute_uv:
        u, s, v = jnp.linalg.svd(a, full_matrices=full_matrices)
        return u, s, v
    empty = [jnp.zeros(spec.shape, a.dtype) for spec in out.specs if spec]
    return empty[0], jnp.linalg.svd(a, compute_uv=False), empty[2]


@lowering("aten.linalg_pinv.atol_rtol_tensor")
def _pseudoinverse(
    out: OutputInfo, a: Any, *, atol: Any = None, rtol: Any = None, hermitian: bool = False
) -> Any:
    if hermitian:  # torch ignores the imaginary part of the diagonal
        lower = jnp.tril(a, -1)
        a = lower + _adjoint(lower) + jnp.eye(a.shape[-1], dtype=a.dtype) * jnp.real(a)
    u, s, v = jnp.linalg.svd(a, full_matrices=False)
    eps = 0 if atol is not None else max(a.shape[-2:]) * jnp.finfo(a.dtype).eps
    bound = (eps if rtol is None else rtol) * s.max(-1, initial=0)
    bound = jnp.maximum(bound, 0 if atol is None else atol)[..., None]
    inverse = jnp.where(s > bound, 1 / jnp.where(s > bound, s, 1), 0)
    return jnp.conj(jnp.swapaxes(v, -1, -2)) @ (
        inverse[..., None] * jnp.conj(jnp.swapaxes(u, -1, -2))
    )


@lowering("aten._linalg_eigh.default")
def _eigh(
    out: OutputInfo,
    a: Any,
    uplo: str = "L",
    compute_v: bool = True,
) -> tuple[Any, Any]:
    lower = jnp.tril(a) if uplo.upper() == "L" else _adjoint(jnp.triu(a))
    whole = lower + _adjoint(jnp.tril(lower, -1))
    values, vectors = jnp.linalg.eigh(whole, symmetrize_input=False)
    return values, vectors if compute_v else jnp.zeros((0,), a.dtype)


@lowering("aten.linalg_eig.default")
def _eig(out: OutputInfo, a: Any) -> tuple[Any, Any]:
    values, vectors = jnp.linalg.eig(a)
    return values, vectors


@lowering("aten.linalg_eigvals.default", "aten._linalg_eigvals.default")
def _eigvals(out: OutputInfo, a: Any) -> Any:
    return jnp.linalg.eigvals(a)


@lowering("aten.linalg_matrix_exp.default", "aten.matrix_exp.default")
def _matrix_exp(out: OutputInfo, a: Any) -> Any:
    return jax.scipy.linalg.expm(a)


@lowering("aten.linalg_householder_product.default")
def _householder(out: OutputInfo, a: Any, tau: Any) -> Any:
    return lax.linalg.householder_product(a, tau)


@lowering("aten.linalg_cross.default")
def _cross(out: OutputInfo, x: Any, y: Any, *, dim: int = -1) -> Any:
    x, y = jnp.broadcast_arrays(x, y)
    return jnp.cross(x, y, axis=dim)
