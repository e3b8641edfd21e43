"""Tables of points, one row of coordinates and shifts for each: NOTE [coordinates]."""

import itertools
from collections.abc import Sequence

import numpy as np

from bridge._sources.numpy.moves import Moves

_QUANTUM = 1e-9  # of a unit; shifts that differ by less are the same
Table = tuple[np.ndarray, np.ndarray]  # coordinates and shifts


def combine(moves: Sequence[Moves]) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates and shifts of every combination of moves, one row for each."""
    places = places_of_moves(moves)
    coordinates = [m.coordinates[p] for m, p in zip(moves, places, strict=True)]
    shifts = [m.shifts[p] for m, p in zip(moves, places, strict=True)]
    if not moves:
        return np.empty((1, 0), int), np.empty((1, 0))
    return np.stack(coordinates, 1), np.stack(shifts, 1)


def places_of_moves(moves: Sequence[Moves]) -> list[np.ndarray]:
    """Return, for every combination, the place of its move in each direction."""
    return [p.ravel() for p in np.indices([len(m.coordinates) for m in moves])]


def distinct_points(
    tables: Sequence[Table], periods: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the points of several tables, each once, and the number of each row of each table.

    The first point is at the primals, if one is.
    """
    width = max(1, *(coordinates.shape[1] for coordinates, _ in tables))
    coordinates = np.concatenate([_pad(c, width, -1) for c, _ in tables])
    shifts = np.concatenate([_pad(s, width, 0) for _, s in tables])
    coordinates, shifts = _merge(coordinates, shifts, periods)
    keys = [coordinates, np.rint(np.real(shifts) / _QUANTUM), np.rint(np.imag(shifts) / _QUANTUM)]
    _, first, numbers = np.unique(
        np.concatenate(keys, 1).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    ends = np.cumsum([len(c) for c, _ in tables])[:-1]
    return coordinates[first], shifts[first], np.split(numbers.ravel(), ends)


def _pad(table: np.ndarray, width: int, value: int) -> np.ndarray:
    missing = np.full((len(table), width - table.shape[1]), value, table.dtype)
    return np.concatenate([table, missing], 1)


def _merge(
    coordinates: np.ndarray, shifts: np.ndarray, periods: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add up shifts along the same coordinate; no shift is coordinate -1. Rows get sorted."""
    coordinates, shifts = _sorted(coordinates, shifts.astype(complex))
    for left, right in itertools.pairwise(range(coordinates.shape[1])):
        same = coordinates[:, left] == coordinates[:, right]
        shifts[:, right] += np.where(same, shifts[:, left], 0)
        coordinates[same, left], shifts[same, left] = -1, 0
    lengths = np.append(periods, 0.0)[coordinates]  # coordinate -1 is the last one, without period
    periodic = lengths > 0
    turns = np.rint(np.real(shifts) / np.where(periodic, lengths, 1))
    shifts = shifts - np.where(periodic, turns * lengths, 0)
    # Half a period back is half a period forth.
    half = periodic & (np.abs(np.real(shifts) + lengths / 2) < _QUANTUM)
    shifts = np.where(half, lengths / 2, shifts)
    coordinates[np.abs(shifts) < _QUANTUM] = -1
    return _sorted(coordinates, np.where(coordinates < 0, 0, shifts))


def _sorted(coordinates: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(coordinates, axis=1, kind="stable")
    return np.take_along_axis(coordinates, order, 1), np.take_along_axis(shifts, order, 1)
