from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from visionkit.metrics.classification import TopK
from visionkit.predictions import Classification
from visionkit.report import Shown
from visionkit.report.embedding import Album
from visionkit.report.gallery import CONFUSED, IMAGES, SIDE, WORST, make_gallery
from visionkit.structures import ImageId, Labels

CLASSES = {"one": ("ant", "bee"), "two": ("ant", "bee")}


def shown(image_id: int) -> Shown:
    """An ant; from the third image on taken for a bee, ever less certainly."""
    score = 0.9 if image_id < 2 else 0.005 * image_id
    said = Classification(np.array([score, 1 - score], np.float32))
    truth = Labels(size=(8, 16), class_scores=np.array([1, 0], np.float32))
    return Shown(np.zeros((8, 16, 3), np.uint8), f"{image_id}.jpg", truth, {"one": said, "two": said})


def metrics(count: int) -> dict[str, TopK]:
    made = {"one": TopK(CLASSES["one"]), "two": TopK(CLASSES["two"])}
    for image_id in range(count):
        for name, metric in made.items():
            metric.update(image_id, shown(image_id).predictions[name], shown(image_id).truth)
    return made


def test_each_image_is_looked_at_once_and_drawn_for_every_group_that_wants_it() -> None:
    asked: list[ImageId] = []

    def look(ids: Sequence[ImageId]) -> Iterator[tuple[ImageId, Shown]]:
        for image_id in ids:
            asked.append(image_id)
            yield image_id, shown(int(image_id))

    gallery = make_gallery(metrics(4), CLASSES, [0, 3], look, seconds=60)
    assert asked == [0, 3, 2]
    names = {group: [one.file_name for one in gallery.of("one", group)] for group in (IMAGES, WORST, CONFUSED)}
    assert names == {IMAGES: ["0.jpg", "3.jpg"], WORST: ["2.jpg", "3.jpg"], CONFUSED: ["2.jpg", "3.jpg"]}
    worst = gallery.of("two", WORST)[0]
    assert worst.wanted.note == "ant taken for bee at 0.99"
    assert worst.both is not None
    assert worst.true.shape == worst.said.shape == worst.both.shape == (SIDE // 2, SIDE, 3)
    assert gallery.left_out == 0


def test_at_most_fifty_are_worst_and_none_is_looked_at_after_the_time_is_up() -> None:
    given = metrics(90)
    assert len(make_gallery({"one": given["one"]}, CLASSES, [], lambda ids: ()).drawn) == 0
    gallery = make_gallery(
        {"one": given["one"]}, CLASSES, [0], lambda ids: ((k, shown(int(k))) for k in ids), seconds=0.0
    )
    assert [one.file_name for one in gallery.drawn] == ["0.jpg"]
    assert gallery.left_out == 50


def test_an_album_counts_what_does_not_fit() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    album = Album(8_000)
    first, second, third = (album.photograph(pixels) for pixels in (noise, noise, noise[:4, :4]))
    assert first is not None
    assert first.startswith("data:image/jpeg;base64,")
    assert second is None
    assert third is not None
    assert album.left_out == 1
    assert len(first) + len(third) + album.left == 8_000
