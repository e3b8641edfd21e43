"""Linear algebra and Fourier transforms in torch."""

from collections.abc import Callable
from typing import Any

import torch

from bridge._lowering.rules.instruction import Instruction

Compute = Callable[..., Any]


def _fourier(i: Instruction, _: Any) -> Compute:
    kind, sizes = i["kind"], tuple(i["fft_lengths"])
    axes = tuple(range(-len(sizes), 0))
    transform = {
        "FFT": torch.fft.fftn,
        "IFFT": torch.fft.ifftn,
        "RFFT": torch.fft.rfftn,
        "IRFFT": torch.fft.irfftn,
    }[kind]
    return lambda x: transform(x, s=sizes, dim=axes)


def _cholesky(i: Instruction, _: Any) -> Compute:
    del i

    def factor(x: torch.Tensor) -> torch.Tensor:
        result, failed = torch.linalg.cholesky_ex(x)
        nan = torch.full((), torch.nan, dtype=x.dtype, device=x.device)
        return torch.where((failed == 0)[..., None, None], result, nan.expand(x.shape).tril())

    return factor


def _solve_triangular(i: Instruction, _: Any) -> Compute:
    upper = not i["lower"]

    def solve(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if i["conjugate_a"]:
            a = torch.conj_physical(a)
        if i["transpose_a"]:
            a = a.mT
        return torch.linalg.solve_triangular(
            a,
            b,
            upper=upper != i["transpose_a"],
            left=i["left_side"],
            unitriangular=i["unit_diagonal"],
        )

    return solve


def _solve_tridiagonal(i: Instruction, _: Any) -> Compute:
    del i

    def solve(lower: Any, diagonal: Any, upper: Any, b: Any) -> torch.Tensor:
        matrix = torch.diag_embed(diagonal) + torch.diag_embed(lower[..., 1:], -1)
        return torch.linalg.solve(matrix + torch.diag_embed(upper[..., :-1], 1), b)

    return solve


def _lu(i: Instruction, _: Any) -> Compute:
    rows = i.inputs[0].shape[-2]

    def factor(x: torch.Tensor) -> list[torch.Tensor]:
        factors, pivots, _ = torch.linalg.lu_factor_ex(x)
        pivots = pivots - 1
        permutation = _permutation(pivots, rows)
        return [factors, pivots.to(torch.int32), permutation.to(torch.int32)]

    return factor


def _permutation(pivots: torch.Tensor, size: int) -> torch.Tensor:
    """Return the permutation that exchanging each row by its pivot makes."""
    order = torch.arange(size, device=pivots.device).expand(*pivots.shape[:-1], size)
    for k in range(pivots.shape[-1]):
        other = pivots[..., k : k + 1].to(torch.int64)
        this = torch.full_like(other, k)
        first, second = order.gather(-1, this), order.gather(-1, other)
        order = order.scatter(-1, this, second).scatter(-1, other, first)
    return order


def _permute_by_pivots(i: Instruction, _: Any) -> Compute:
    size = i.shape[-1]
    return lambda pivots: _permutation(pivots, size).to(torch.int32)


def _qr(i: Instruction, _: Any) -> Compute:
    mode = "complete" if i["full_matrices"] else "reduced"
    return lambda x: list(torch.linalg.qr(x, mode))


def _svd(i: Instruction, _: Any) -> Compute:
    if not i["compute_uv"]:
        return torch.linalg.svdvals

    def decompose(x: torch.Tensor) -> list[torch.Tensor]:
        u, s, vh = torch.linalg.svd(x, full_matrices=i["full_matrices"])
        return [s, u, vh]

    return decompose


def _eigh(i: Instruction, _: Any) -> Compute:
    triangle = "L" if i["lower"] else "U"

    def decompose(x: torch.Tensor) -> list[torch.Tensor]:
        values, vectors = torch.linalg.eigh(x, UPLO=triangle)
        return [vectors, values]

    return decompose


def _eig(i: Instruction, _: Any) -> Compute:
    return (lambda x: list(torch.linalg.eig(x))) if i["right"] else torch.linalg.eigvals


RULES = {
    "fft": _fourier,
    "cholesky": _cholesky,
    "triangular_solve": _solve_triangular,
    "tridiagonal_solve": _solve_tridiagonal,
    "lu": _lu,
    "lu_pivots_to_permutation": _permute_by_pivots,
    "geqrf": lambda i, _: lambda x: list(torch.geqrf(x)),
    "householder_product": lambda i, _: torch.linalg.householder_product,
    "qr": _qr,
    "svd": _svd,
    "eigh": _eigh,
    "eig": _eig,
}
