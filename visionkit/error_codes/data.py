"""Codes of data: the rule that is broken, and how it is mended. A reader, a check and an error name the same ones."""

from __future__ import annotations

from collections.abc import Mapping

from visionkit.error_codes.code import Code

_DRAWN_ANEW = "draw it anew in the labelling tool, or leave the object out with data.on_error=skip"
_WRITTEN_ANEW = "write the file again with the tool that made it, or correct the line by hand"

_SOURCE: Mapping[str, Code] = {
    "set-unusable": Code(
        "the data set can be opened: its folder, files, splits and classes are there",
        "compare the folder with what the format asks for; visionkit check_data data.root=DIR says how it is read",
    ),
    "root-missing": Code(
        "data.root is a folder that is there",
        "give the folder that holds the data set as data.root=DIR",
    ),
    "format-unclear": Code(
        "the format of a folder can be told from what is in it",
        "name it: data=coco, voc, yolo, csv, masks or folder",
    ),
    "split-unknown": Code(
        "a split is one of the source's own lists",
        "name one that is there in data.splits, or divide the images with data.reader.fractions",
    ),
    "class-unknown": Code(
        "a class that is named is one of the source's or the model's, and is named once",
        "copy the name as it stands in the list of the line",
    ),
    "class-list-differs": Code(
        "the data has no class that the model does not know",
        "list the classes that both have in data.classes=[…], or use data with the model's classes",
    ),
    "file-missing": Code("every label file is there", "restore the file, or correct the key that names it"),
    "file-unreadable": Code("a label file is whole and can be read", "restore it, or see to its permissions"),
    "file-format": Code("a label file has the form that its format asks for", _WRITTEN_ANEW),
    "file-not-written": Code(
        "a corrected file has a place of its own, where it can be written",
        "give another file name: nothing that is read is ever overwritten",
    ),
    "path-outside": Code(
        "every path stays inside the data set's folder",
        "move the file into the data set's folder and name it from there",
    ),
    "name-unsafe": Code(
        "a name holds no control characters and no HTML, which would harm a terminal or a page",
        "rename the file or class",
    ),
    "list-entry": Code(
        "each line of a list names one image that is there, and names it once",
        "correct the line, or restore the image",
    ),
}

_IMAGES: Mapping[str, Code] = {
    "image-missing": Code("the image file is there", "restore it, or leave it out with data.on_error=skip"),
    "image-ambiguous": Code("one image file has the name, not several", "keep one of the files"),
    "image-unreadable": Code(
        "the image file is whole and of a kind that can be decoded",
        "copy it again, or save it as PNG or JPEG; data.on_error=skip leaves it out",
    ),
    "image-too-large": Code(
        "an image has no more pixels than can be decoded safely",
        "cut it into tiles, or save it smaller",
    ),
    "image-kind": Code(
        "images have the channels and values that data.channels and data.bit_depth say",
        "set data.channels and data.bit_depth to what the files hold, or convert the files",
    ),
    "size-invalid": Code(
        "recorded sizes are whole numbers of pixels above 0",
        "write the image's own width and height",
    ),
    "size-differs": Code(
        "the recorded size is that of the image",
        "restore the image that was labelled, or correct the size and the labels with it",
    ),
    "size-exif": Code(
        "the recorded size is that of the image as its EXIF orientation turns it",
        "save the image without EXIF orientation",
    ),
}

_IDS: Mapping[str, Code] = {
    "id-invalid": Code("an id is a whole number or a string", "renumber it; check_data fix=OUT.json does it for COCO"),
    "id-duplicate": Code("an id stands for one thing", "give each its own id, or remove the one that is there twice"),
    "id-collides": Code(
        "ids differ in more than their type: 1 and '1' are taken for each other",
        "write all ids as numbers",
    ),
    "id-zero": Code(
        "an id is not 0, which COCO's tools take for no match, and others for the background",
        "number from 1 on; check_data fix=OUT.json writes a copy that does",
    ),
    "id-string": Code(
        "an id is a number, as COCO's tools need it",
        "check_data fix=OUT.json writes a copy with numbers",
    ),
    "image-duplicate": Code("an image stands in a list once", "remove one of the two, and join their annotations"),
    "image-unknown": Code("an annotation is of an image that there is", "add the image to the list, or remove it"),
    "category-unknown": Code("an annotation is of a category that there is", "add the category, or correct the id"),
    "category-duplicate": Code(
        "a category stands in the list once, by id and by name",
        "rename one of the two, or join them",
    ),
    "category-name": Code("a category has a name", "give it one"),
}

_OBJECTS: Mapping[str, Code] = {
    "annotation-format": Code("an annotation has the form that its format asks for", _WRITTEN_ANEW),
    "label-missing": Code("an object has a class", "name its class, or remove it"),
    "label-count": Code(
        "an image has as many classes as its task takes: one, where one answer is given",
        "give each image one class, or train with head.classification.multi_label=true",
    ),
    "flag-invalid": Code("a flag such as iscrowd or difficult is 0 or 1", "write 0 or 1"),
    "area-invalid": Code("an area is a number of pixels from 0", "correct it, or leave it out"),
    "area-missing": Code("each annotation tells its area", "check_data fix=OUT.json writes a copy with areas"),
    "iscrowd-missing": Code("each annotation tells whether it is a crowd", "check_data fix=OUT.json adds iscrowd=0"),
    "score-invalid": Code("a prediction has a score that is a finite number", "write the score as a number"),
    "box-missing": Code("an object has a box", _DRAWN_ANEW),
    "box-format": Code("a box is four numbers", _WRITTEN_ANEW),
    "box-not-finite": Code("a box's numbers are finite", _DRAWN_ANEW),
    "box-negative": Code("a box's sides are not negative", _DRAWN_ANEW),
    "box-inverted": Code(
        "a box's left edge lies left of its right one, its top above its bottom",
        "swap the two, and see whether the tool that wrote it swaps them everywhere",
    ),
    "box-zero-area": Code("a box has an area", _DRAWN_ANEW),
    "box-outside": Code(
        "a box lies inside its image",
        "see whether boxes and image have the same size and orientation, or draw it anew",
    ),
    "box-xyxy": Code(
        "boxes are x, y, width, height where the format says so, not two corners",
        "write x, y, width, height in place of two corners",
    ),
    "box-range": Code(
        "shares of an image's sides lie between 0 and 1",
        "divide pixels by the image's width and height",
    ),
    "segmentation-format": Code("a segmentation is a list of polygons or run lengths", _WRITTEN_ANEW),
    "polygon-empty": Code("a segmentation has at least one polygon", _DRAWN_ANEW),
    "polygon-short": Code("a polygon has at least three points", _DRAWN_ANEW),
    "polygon-odd": Code("a polygon has as many x as y", _DRAWN_ANEW),
    "polygon-not-finite": Code("a polygon's numbers are finite", _DRAWN_ANEW),
    "polygon-outside": Code("a polygon lies inside its image", "see whether its numbers are pixels of this image"),
    "polygon-crossing": Code(
        "a polygon's edges do not cross each other",
        "draw it anew, or let check_data fix=OUT.json write the pixels that COCO's tools fill",
    ),
    "rle-size": Code("run lengths are of their image's size", "encode the mask anew, of the image as it is"),
    "rle-invalid": Code("run lengths can be decoded and fill their image", "encode the mask anew"),
}

_MASKS: Mapping[str, Code] = {
    "mask-missing": Code("an image has its mask", "restore the mask, or leave the image out with data.on_error=skip"),
    "mask-unreadable": Code("a mask is whole and of a kind that can be decoded", "save it again as a grey PNG"),
    "mask-size": Code("a mask has its image's size", "make the mask anew, of the image as it is"),
    "mask-value": Code(
        "a mask's values are those of the class list",
        "name the value in data.reader.names, or set data.ignore_index to it",
    ),
    "mask-jpeg": Code("a mask is stored without loss, not as JPEG", "make it again as PNG; JPEG has changed it"),
    "mask-ambiguous": Code("the mask of an image is one file", "keep one of the files"),
    "mask-class": Code("each object of an instance mask has a class", "paint its pixels in the class mask, too"),
    "mask-segments": Code(
        "a mask's segments are those of the annotation file",
        "write mask and annotations together again",
    ),
}

_SPLITS: Mapping[str, Code] = {
    "split-empty": Code(
        "a split holds at least one usable image with an object",
        "choose another split with data.splits, or add images and labels",
    ),
    "class-absent": Code("each class has an example in each split", "add examples, or leave the class out"),
    "images-empty": Code("images hold objects", "label them, unless they are meant to be empty"),
    "image-in-splits": Code("an image is in one split alone", "keep it in one of them, or the score is too good"),
}

DATA: Mapping[str, Code] = {**_SOURCE, **_IMAGES, **_IDS, **_OBJECTS, **_MASKS, **_SPLITS}
