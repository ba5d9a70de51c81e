"""The demo's page in Gradio."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionkit.data.decode import IMAGE_SUFFIXES
from visionkit.demo.looking import Look, Looker, forget
from visionkit.errors import UserError, printable
from visionkit.structures import Decoding

_KEPT = 3600
"""Seconds for which an image that nobody looks at any more is kept in memory, and its files on the disk."""
_WAITING = 20
"""Requests that may wait for the model; the next one is told that it is busy."""
STYLE = """
#picture img { max-height: 75vh; object-fit: contain; }
#files .label-clear-button { display: none; }
.vk-title { margin: 0; }
.vk-title small { font-weight: normal; opacity: .75; }
.vk-status { margin: 0; }
.vk-fault { margin: 0; padding: .5em .75em; border-left: 4px solid #d55e00; overflow-wrap: anywhere; }
.vk-part h3 { margin: .75em 0 .4em; }
.vk-part small { font-weight: normal; opacity: .75; }
.vk-scroll { overflow: auto; max-height: 26em; }
.vk-part table { width: 100%; margin: 0; border-collapse: collapse; }
.vk-part table, .vk-part tr, .vk-part th, .vk-part td { border: 0; background: none; }
.vk-part th, .vk-part td { padding: .2em .4em; text-align: left; }
.vk-part .vk-objects th, .vk-part .vk-objects td { border-bottom: 1px solid #8884; white-space: nowrap; }
.vk-part .vk-number, .vk-objects th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.vk-swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid #0006; }
.vk-part .vk-bars th { width: 1%; min-width: 7em; padding-left: 0; font-weight: normal; overflow-wrap: anywhere; }
.vk-part .vk-bars .vk-number { width: 4.5em; white-space: nowrap; }
.vk-bar { display: block; height: 1em; min-width: 1px; border: 1px solid #0006; }
footer { display: none !important; }
@media (max-width: 640px) {  /* the answer under the image, what can be chosen below it */
  #asked, #answered { display: contents; }
  #asked > *, #answered > * { width: 100%; }
  #asked > .form { order: 1; }
  .vk-objects { font-size: .85em; }
}
"""


@dataclass(frozen=True)
class _Asked:
    """The fields that a person fills in, each a component of Gradio."""

    image: Any
    heads: Any
    least: Any
    classes: Any
    tiles: Any
    views: Any


@dataclass(frozen=True)
class _Answered:
    """The fields that tell what was found, each a component of Gradio."""

    status: Any
    picture: Any
    found: Any
    files: Any


def build_page(looker: Looker, *, title: str, subtitle: str, score: float) -> Any:
    """Return the page, a `gradio.Blocks`, not yet launched.

    Args:
        looker: what looks at images.
        title: over the page, such as the checkpoint's name.
        subtitle: beside it.
        score: the least of an object, where the slider begins.
    """
    import gradio

    with gradio.Blocks(title=f"visionkit: {title}", delete_cache=(_KEPT // 4, _KEPT)) as page:
        gradio.HTML(f'<h2 class="vk-title">{html.escape(title)} <small>{html.escape(subtitle)}</small></h2>')
        look = gradio.State(None, time_to_live=_KEPT, delete_callback=forget)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=280, elem_id="asked"):
                asked = _asked(gradio, looker, score)
            with gradio.Column(scale=3, min_width=280, elem_id="answered"):
                answered = _answered(gradio)
        _answer_changes(gradio, looker, look, asked, answered)
    page.queue(max_size=_WAITING)
    return page


def _asked(gradio: Any, looker: Looker, score: float) -> _Asked:
    """Place the fields in the column that is open, in the order in which they are made."""
    heads, names = _heads_and_names(looker.predictor.classes)
    return _Asked(
        image=_image_field(gradio, looker.predictor.decoding),
        heads=gradio.CheckboxGroup(heads, value=heads, label="Heads", visible=len(heads) > 1),
        least=gradio.Slider(
            0, 1, value=score, step=0.01, label="Least score of an object", visible=looker.tells_of_parts
        ),
        classes=gradio.Dropdown(names, value=[], multiselect=True, label="Classes", info="None chosen: all"),
        tiles=gradio.Checkbox(
            label=f"In tiles of {looker.tile} pixels, too",
            info="For small objects in large images",
            visible=looker.tells_of_parts,
        ),
        views=gradio.Checkbox(label="Mirrored and larger, too", info="Slower and better"),
    )


def _answered(gradio: Any) -> _Answered:
    """Place the fields in the column that is open, in the order in which they are made."""
    return _Answered(
        status=gradio.HTML(_told("Drop an image, or choose one."), elem_id="status"),
        picture=gradio.Image(
            type="filepath",
            interactive=False,
            show_label=False,
            buttons=["download", "fullscreen"],
            alt_text="The image with what was found drawn into it",
            elem_id="picture",
        ),
        found=gradio.HTML("", elem_id="found"),
        files=gradio.File(
            label="What is shown, to download",
            file_count="multiple",
            interactive=False,
            visible=False,
            elem_id="files",
        ),
    )


def _answer_changes(gradio: Any, looker: Looker, look: Any, asked: _Asked, answered: _Answered) -> None:
    """Look again where the image or the way of looking changes; where what is chosen of it does, only show again.

    look: the `gradio.State` that keeps the last `Look`.
    """
    one_at_a_time: dict[str, Any] = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "api_visibility": "undocumented",
    }
    show: dict[str, Any] = {
        "fn": lambda *given: _view(looker, gradio, *given),
        "inputs": [look, asked.heads, asked.classes, asked.least],
        "outputs": [answered.picture, answered.found, answered.files],
        **one_at_a_time,
    }
    gradio.on(
        [asked.image.change, asked.tiles.change, asked.views.change],
        lambda *given: _look(looker, *given),
        [asked.image, asked.tiles, asked.views, look],
        [look, answered.status],
        preprocess=False,  # Gradio would open the file, and fail in its own words
        api_name="look",
        show_progress_on=answered.picture,
        **one_at_a_time,
    ).then(api_name="view", **show)
    gradio.on(
        [asked.heads.change, asked.classes.change, asked.least.change],
        api_name="choose",
        trigger_mode="always_last",
        show_progress="hidden",
        **show,
    )


def _image_field(gradio: Any, decoding: Decoding) -> Any:
    if decoding.bit_depth == 8 and decoding.channels in (1, 3):  # what a browser can show
        return gradio.Image(type="filepath", sources=["upload", "clipboard"], show_label=False, height=260)
    return gradio.File(
        label=f"Image, {decoding.channels} channels of {decoding.dtype}", file_types=sorted(IMAGE_SUFFIXES)
    )


def _heads_and_names(known: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    return list(known), list(dict.fromkeys(name for names in known.values() for name in names))


def _look(
    looker: Looker, file: Mapping[str, Any] | None, tiles: bool, views: bool, before: Look | None
) -> tuple[Look | None, str]:
    """Answer a change of the image; whatever is wrong becomes a line of the page."""
    forget(before)
    if file is None:
        return None, _told("Drop an image, or choose one.")
    path = Path(file["path"])
    name = Path(file.get("orig_name") or path.name).name
    try:
        look = looker.look(path, name, tiles=tiles, views=views)
    except UserError as error:
        return None, _fault(str(error))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        print(f"{printable(name)}: {type(error).__name__}: {printable(reason)}", file=sys.stderr)
        return None, _fault(f"{name}: {type(error).__name__}: {reason}")
    height, width = look.image.shape[:2]
    return look, _told(f"{name}: {width} × {height} pixels, looked at in {look.seconds:.2f} s")


def _view(
    looker: Looker, gradio: Any, look: Look | None, heads: Sequence[str], classes: Sequence[str], score: float
) -> tuple[str | None, str, Any]:
    """Show what is chosen of the last look."""
    if look is None:
        return None, "", gradio.update(value=None, visible=False)
    view = looker.view(look, heads=heads, classes=classes, score=score)
    files = [str(file) for file in view.files]
    return str(view.picture), view.found, gradio.update(value=files or None, visible=bool(files))


def _told(text: str) -> str:
    return f'<p class="vk-status" role="status">{html.escape(printable(text))}</p>'


def _fault(text: str) -> str:
    return f'<p class="vk-fault" role="alert">{html.escape(printable(text))}</p>'
