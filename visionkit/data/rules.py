"""The rules that data are held to, by the code that a finding names."""

from __future__ import annotations

from collections.abc import Mapping

RULES: Mapping[str, str] = {
    # the source
    "set-unusable": "the data set can be opened: its folder, files, splits and classes are there",
    "file-missing": "every label file is there",
    "file-unreadable": "a label file is whole and can be read",
    "file-format": "a label file has the form that its format asks for",
    "path-outside": "every path stays inside the data set's folder",
    "name-unsafe": "a name holds no control characters and no HTML, which would harm a terminal or a page",
    "list-entry": "each line of a list names one image that is there, and names it once",
    # images
    "image-missing": "the image file is there",
    "image-ambiguous": "one image file has the name, not several",
    "image-unreadable": "the image file is whole and of a kind that can be decoded",
    "size-invalid": "recorded sizes are whole numbers of pixels above 0",
    "size-differs": "the recorded size is that of the image",
    "size-exif": "the recorded size is that of the image as its EXIF orientation turns it",
    # ids and references
    "id-invalid": "an id is a whole number or a string",
    "id-duplicate": "an id stands for one thing",
    "id-collides": "ids differ in more than their type: 1 and '1' are taken for each other",
    "id-zero": "an id is not 0, which COCO's tools take for no match, and others for the background",
    "id-string": "an id is a number, as COCO's tools need it",
    "image-duplicate": "an image stands in a list once",
    "image-unknown": "an annotation is of an image that there is",
    "category-unknown": "an annotation is of a category that there is",
    "category-duplicate": "a category stands in the list once, by id and by name",
    "category-name": "a category has a name",
    # objects
    "annotation-format": "an annotation has the form that its format asks for",
    "label-missing": "an object has a class",
    "flag-invalid": "a flag such as iscrowd or difficult is 0 or 1",
    "area-invalid": "an area is a number of pixels from 0",
    "area-missing": "each annotation tells its area",
    "iscrowd-missing": "each annotation tells whether it is a crowd",
    # boxes
    "box-missing": "an object has a box",
    "box-format": "a box is four numbers",
    "box-not-finite": "a box's numbers are finite",
    "box-negative": "a box's sides are not negative",
    "box-inverted": "a box's left edge lies left of its right one, its top above its bottom",
    "box-zero-area": "a box has an area",
    "box-outside": "a box lies inside its image",
    "box-xyxy": "boxes are x, y, width, height where the format says so, not two corners",
    "box-range": "shares of an image's sides lie between 0 and 1",
    # segmentations
    "segmentation-format": "a segmentation is a list of polygons or run lengths",
    "polygon-empty": "a segmentation has at least one polygon",
    "polygon-short": "a polygon has at least three points",
    "polygon-odd": "a polygon has as many x as y",
    "polygon-not-finite": "a polygon's numbers are finite",
    "polygon-outside": "a polygon lies inside its image",
    "polygon-crossing": "a polygon's edges do not cross each other",
    "rle-size": "run lengths are of their image's size",
    "rle-invalid": "run lengths can be decoded and fill their image",
    # mask images
    "mask-missing": "an image has its mask",
    "mask-unreadable": "a mask is whole and of a kind that can be decoded",
    "mask-size": "a mask has its image's size",
    "mask-value": "a mask's values are those of the class list",
    "mask-jpeg": "a mask is stored without loss, not as JPEG",
    "mask-ambiguous": "the mask of an image is one file",
    "mask-class": "each object of an instance mask has a class",
    "mask-segments": "a mask's segments are those of the annotation file",
    # splits
    "split-empty": "a split holds at least one usable image with an object",
    "class-absent": "each class has an example in each split",
    "images-empty": "images hold objects",
    "image-in-splits": "an image is in one split alone",
}

_OF_OBJECTS = ("annotation", "area", "box", "category", "flag", "iscrowd", "label", "polygon", "rle", "segmentation")


def is_of_object(rule: str) -> bool:
    """Whether what breaks the rule is one object; otherwise it is a whole image or more."""
    return rule.split("-")[0] in _OF_OBJECTS or rule == "image-unknown"
