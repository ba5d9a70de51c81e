"""What was found in an image, as HTML: bars of classes, a table of objects, the shares of a map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    SemanticMap,
)
from visionkit.report.colours import class_colour
from visionkit.structures import IGNORE_INDEX

_BARS = 5
_ROWS = 100
"""Objects that are listed; the file that is offered holds all."""
_TEMPLATE = """
{%- macro swatch(row) %}<span class="vk-swatch" style="background: rgb{{ row.colour }}"></span>{% endmacro -%}
{%- for part in parts %}
<section class="vk-part"><h3>{{ part.head }}{% if part.told %} <small>{{ part.told }}</small>{% endif %}</h3>
{%- if part.bars %}
<table class="vk-bars">
{%- for row in part.bars %}
<tr><th scope="row">{{ row.name }}</th><td><span class="vk-bar" style="width: {{ row.share }}%; \
background: rgb{{ row.colour }}"></span></td><td class="vk-number">{{ row.number }}</td></tr>
{%- endfor %}
</table>
{%- endif %}
{%- if part.objects %}
<div class="vk-scroll"><table class="vk-objects">
<thead><tr><th>class</th><th>score</th><th>left</th><th>top</th><th>width</th><th>height</th></tr></thead>
<tbody>
{%- for row in part.objects %}
<tr><td>{{ swatch(row) }}{{ row.name }}</td>
{%- for number in row.numbers %}<td class="vk-number">{{ number }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- endif %}
</section>
{%- else %}
<p>Choose a head.</p>
{%- endfor %}
"""


def findings_page(predictions: Mapping[str, Prediction], classes: Mapping[str, Sequence[str]]) -> str:
    """Return HTML, every name escaped: a section for each head.

    Args:
        predictions: by head name, those that are shown.
        classes: each head's class names.
    """
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(
        parts=[{"head": head, **_part(one, classes[head])} for head, one in predictions.items()]
    ).strip()


def _part(one: Prediction, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(one, Classification | Localization):
        best = np.argsort(-one.scores, kind="stable")[:_BARS].tolist()
        part: dict[str, Any] = {"bars": [_bar(names[label], label, float(one.scores[label])) for label in best]}
        if isinstance(one, Localization):
            part["objects"] = [_object(names[best[0]], best[0], float(one.scores[best[0]]), one.box)]
        return part
    if isinstance(one, SemanticMap):
        counts = np.bincount(one.classes.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        bars = [_bar(names[label], label, counts[label] / one.classes.size, percent=True) for label in order]
        return {"told": "share of the image", "bars": bars}
    if isinstance(one, PanopticMap):
        count = _counted(len(one.segments), "segment")
        return {"told": f"{count}, share of the image", "bars": [*_segments(one, names)]}
    return _objects(one, names)


def _objects(one: Detections | Instances, names: Sequence[str]) -> dict[str, Any]:
    count = len(one)
    listed = f", the first {_ROWS} of them here" if count > _ROWS else ""
    rows = zip(one.labels.tolist()[:_ROWS], one.scores.tolist(), one.boxes, strict=False)
    objects = [_object(names[label], label, score, box) for label, score, box in rows]
    return {"told": _counted(count, "object") + listed, "objects": objects}


def _segments(one: PanopticMap, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for segment in sorted(one.segments, key=lambda segment: -segment.area):
        name = f"{names[segment.label]} {segment.score:.2f}" if segment.thing else names[segment.label]
        yield _bar(name, segment.label, segment.area / one.ids.size, percent=True)


def _bar(name: str, label: int, share: float, *, percent: bool = False) -> dict[str, Any]:
    number = f"{100 * share:.1f} %" if percent else f"{share:.2f}"
    return {"name": name, "colour": class_colour(label), "share": round(100 * share, 1), "number": number}


def _object(name: str, label: int, score: float, box: np.ndarray) -> dict[str, Any]:
    left, top, right, bottom = (float(edge) for edge in box)
    sides = [f"{value:.0f}" for value in (left, top, right - left, bottom - top)]
    return {"name": name, "colour": class_colour(label), "numbers": [f"{score:.2f}", *sides]}


def _counted(count: int, thing: str) -> str:
    return f"1 {thing}" if count == 1 else f"{count or 'no'} {thing}s"
