"""The table of a model: a row a stage or a layer, with what it gives, sees and costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from visionkit.inspection.trace import Call

COLUMNS = ("output size", "stride", "receptive field", "parameters", "MACs", "activation memory")
"""The heads of the columns, after `layer` and `kind`."""
MOST_LAYERS = 40
"""Models with more layers are told by stages, unless a depth is asked for."""
STAGES = 2
"""The depth of a stage: 1 is backbone, neck and each head."""


@dataclass(frozen=True)
class Row:
    """A layer, or a stage with all that is in it; the attributes are those of `Call`, sums over its parts included."""

    name: str
    kind: str
    output: tuple[int, ...] | None
    strides: tuple[Fraction | None, Fraction | None]
    fields: tuple[int | None, int | None]
    parameters: int
    macs: int
    memory: int

    def cells(self) -> tuple[str, ...]:
        """The row in words: numbers are exact, sizes are channels × height × width, fields and strides in pixels."""
        return (
            self.name,
            self.kind,
            "–" if self.output is None else " × ".join(map(str, self.output)),
            "–" if None in self.strides else _pair(self.strides),
            "–" if self.output is None else _pair(tuple("all" if one is None else one for one in self.fields)),
            f"{self.parameters:,}",
            f"{self.macs:,}",
            readable_bytes(self.memory),
        )


def rows(whole: Call, depth: int | None = None) -> list[Row]:
    """Return the rows of a model in the order of the calls.

    Args:
        whole: see `visionkit.inspection.trace_model`.
        depth: 1: backbone, neck and each head; 2: their stages; and so on, to the layers. A module around a single
            other one is no step. None: layers, of which there may be `MOST_LAYERS`, else stages.
    """
    layers = list(_rows(whole, 1 << 30))
    if depth is None:
        depth = 1 << 30 if len(layers) <= MOST_LAYERS else STAGES
    return list(_rows(whole, depth))


def total(whole: Call) -> Row:
    """The sums over the whole model."""
    return _row(whole, "total", "")


def text_table(lines: Sequence[Row], last: Row) -> str:
    """Lay rows out as text, with a line for the sums under them."""
    cells = [("layer", "kind", *COLUMNS), *(row.cells() for row in lines), ("total", "", "", "", "", *last.cells()[5:])]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    texts = [
        "  ".join(cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in enumerate(columns)).rstrip()
        for columns in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = "-" * max(map(len, texts))
    return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1]])


def readable_bytes(count: int) -> str:
    """A number of bytes in B, KiB, MiB or GiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _rows(call: Call, depth: int) -> Iterator[Row]:
    for part in call.parts:
        if part.parts and depth > 1:
            wraps = sum(one.is_module for one in part.parts) == 1
            yield from _own(part)
            yield from _rows(part, depth if wraps else depth - 1)
        elif part.kind != "Identity":
            yield _row(part, part.name, part.kind)


def _own(call: Call) -> Iterator[Row]:
    """What a module with parts counts for itself, such as a parameter that it only hands on."""
    if call.parameters or call.macs or call.memory:
        yield Row(call.name, call.kind, None, (None, None), (None, None), call.parameters, call.macs, call.memory)


def _row(call: Call, name: str, kind: str) -> Row:
    inside = list(call.calls())
    return Row(
        name,
        kind,
        call.output,
        call.strides,
        call.fields,
        sum(one.parameters for one in inside),
        sum(one.macs for one in inside),
        sum(one.memory for one in inside),
    )


def _pair(values: Sequence[object]) -> str:
    """One value where both sides have the same, else both."""
    down, across = (str(value) for value in values)
    return down if down == across else f"{down} × {across}"
