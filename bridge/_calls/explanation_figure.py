"""Explanations of calls as figures: text of Graphviz, and SVG that needs no other program."""

import html
import itertools
from collections.abc import Iterator

from bridge._calls.explanation import Crossing, Explanation, format_bytes
from bridge._calls.explanation_text import describe

_COLORS = {"shared": "#1a7f37", "copied": "#b35900"}
_OTHER, _FRAME = "#57606a", "#8c959f"
_MOST_ROWS, _MOST_SIGNS = 16, 90
_LINE, _SIGN, _PAD, _INDENT, _GAP = 18, 7.3, 10, 40, 16  # in pixels


def as_dot(explanation: Explanation) -> str:
    """Return a tree of calls as text of Graphviz."""
    numbers = itertools.count()
    lines = ["digraph calls {", '  node [shape=box, fontname="monospace"];']
    lines += [f"  {line}" for line in _dot_lines(explanation, numbers, None)]
    return "\n".join([*lines, "}"])


def _dot_lines(x: Explanation, numbers: Iterator[int], parent: int | None) -> Iterator[str]:
    number = next(numbers)
    text = "".join(f"{_escape(line)}\\l" for line, _ in _rows(x))
    yield f'call{number} [label="{text}"];'
    if parent is not None:
        yield f"call{parent} -> call{number};"
    for call in x.calls:
        yield from _dot_lines(call, numbers, number)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _rows(x: Explanation) -> Iterator[tuple[str, str]]:
    """Yield the lines of a box, each with its color."""
    yield f"{x.direction} {x.name}", "black"
    yield from _crossings("in ", x.arguments)
    yield from _crossings("out", x.results)
    kept = format_bytes(x.saving.nbytes)
    yield f"derivative: {x.saving.strategy}, keeps {kept}", _OTHER
    count = len(x.program.splitlines())
    yield f"program: {f'{x.language}, {count} lines' if count else 'none'}", _OTHER


def _crossings(title: str, crossings: tuple[Crossing, ...]) -> Iterator[tuple[str, str]]:
    for x in crossings[:_MOST_ROWS]:
        words = (title, x.name, *describe(x))
        yield "  ".join(word for word in words if word), _COLORS.get(x.way, _OTHER)
    if len(crossings) > _MOST_ROWS:
        yield f"{title}  ... and {len(crossings) - _MOST_ROWS} more", _OTHER


def as_svg(explanation: Explanation) -> str:
    """Return a tree of calls as SVG: a box for each, those in a call below it, further right."""
    shapes: list[str] = []
    width, height = _draw(explanation, _PAD, _PAD, shapes)
    size = f'width="{width + _PAD:.0f}" height="{height:.0f}"'
    view = f'viewBox="0 0 {width + _PAD:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view}>'
    font = '<g font-family="monospace" font-size="12">'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, background, font, *shapes, "</g>", "</svg>"])


def _draw(x: Explanation, left: float, top: float, shapes: list[str]) -> tuple[float, float]:
    """Draw a call and those in it; return the right end and the top of what comes next."""
    rows = [(_cut(text), color) for text, color in _rows(x)]
    width = max(len(text) for text, _ in rows) * _SIGN + 2 * _PAD
    height = len(rows) * _LINE + _PAD
    shapes.append(
        f'<rect x="{left}" y="{top}" width="{width:.0f}" height="{height}" rx="4" '
        f'fill="#f6f8fa" stroke="{_FRAME}"/>'
    )
    for i, (text, color) in enumerate(rows):
        weight = ' font-weight="bold"' if not i else ""
        shapes.append(
            f'<text x="{left + _PAD}" y="{top + (i + 1) * _LINE}" fill="{color}"{weight} '
            f'xml:space="preserve">{html.escape(text)}</text>'
        )
    right, bottom = left + width, top + height + _GAP
    for call in x.calls:
        middle = bottom + _LINE
        shapes.append(
            f'<path d="M {left + _INDENT / 2} {top + height} V {middle} H {left + _INDENT}" '
            f'fill="none" stroke="{_FRAME}"/>'
        )
        inner_right, bottom = _draw(call, left + _INDENT, bottom, shapes)
        right = max(right, inner_right)
    return right, bottom


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SIGNS else f"{text[: _MOST_SIGNS - 3]}..."
