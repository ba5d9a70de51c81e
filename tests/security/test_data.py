"""Data sets made to do harm: none runs code, none reaches outside its folder, none takes the machine with it."""

from __future__ import annotations

import io
import json
import os
import pickle
import runpy
import xml.sax
import xml.sax.handler
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from visionkit import cli
from visionkit.data import index_cache
from visionkit.data.decode import decode
from visionkit.data.readers import Coco, Shapes, coco_index
from visionkit.engine.evaluate import write_map
from visionkit.errors import DataError

PAYLOADS = runpy.run_path(str(Path(__file__).parent / "payloads.py"))
Trap, YAML_BOMBS, yaml_code = (PAYLOADS[name] for name in ("Trap", "YAML_BOMBS", "yaml_code"))


@pytest.fixture
def checked(here, tmp_path, capsys, bounded):
    """checked("yolo"): the set in tmp_path/set is checked within bounds; it ends with 2, and the text is returned."""

    def run(data, code=2):
        root = tmp_path / "set"
        capsys.readouterr()
        with bounded():
            assert cli.main(["check_data", f"data={data}", f"data.root={root}", "data.split=train"]) == code
        output = capsys.readouterr()
        text = output.out + output.err
        assert "Traceback" not in text
        assert all(line.isprintable() for line in text.splitlines())
        return text

    return run


@pytest.fixture
def sound(tmp_path):
    """sound("voc"): a small sound set of a format in tmp_path/set."""

    def build(name):
        root = tmp_path / "set"
        if name == "csv":
            root.mkdir()
            Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(root / "a.png")
            (root / "train.csv").write_text("file,x1,y1,x2,y2,label\na.png,10,10,30,30,cat\n")
            return root
        module = runpy.run_path(str(Path(__file__).parents[1] / "corpus" / f"bad_{name}.py"))
        document = module["_sound"](root)
        if document is not None:
            (root / "train.json").write_text(json.dumps(document))
        return root

    return build


# ----------------------------------------------------------------------------------------------------------------- YAML
@pytest.mark.parametrize("code", ["apply", "object", "new", "name", "module"])
@pytest.mark.parametrize("data", ["yolo", "auto"])
def test_yaml_runs_no_python(code, data, sound, checked, marker):
    text = yaml_code(code, marker)
    if code == "apply":
        yaml.unsafe_load(text)
        marker.rmdir()  # it does what it would
    root = sound("yolo")
    (root / "data.yaml").write_text(f"names: [cat]\ntrain: images/train\nx: {text}\n")
    assert "data.yaml: cannot be read (could not determine a constructor for the tag" in checked(data)


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_a_yaml_bomb_is_refused_unlit(name, sound, checked):
    root = sound("yolo")
    (root / "data.yaml").write_text(YAML_BOMBS[name])
    assert "data.yaml: cannot be read (" in checked("yolo")


# ------------------------------------------------------------------------------------------------------------------ XML
ENTITY = '<!DOCTYPE a [<!ENTITY e SYSTEM "file://{secret}">]>'
XML_ATTACKS = {
    "external_entity": ENTITY,
    "parameter_entity": '<!DOCTYPE a [<!ENTITY % e SYSTEM "file://{secret}"> %e;]>',
    "external_dtd": '<!DOCTYPE a SYSTEM "file://{secret}">',
    "laughs": "<!DOCTYPE a ["
    + '<!ENTITY e0 "lol">'
    + "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    + '<!ENTITY e "&e12;">]>',
    "quadratic": "<!DOCTYPE a [<!ENTITY q '" + "x" * 100_000 + "'><!ENTITY e '" + "&q;" * 10_000 + "'>]>",
}


@pytest.mark.parametrize(
    ("attack", "encoding"),
    [(name, "utf-8") for name in XML_ATTACKS] + [("laughs", f"utf-{one}") for one in ("8-sig", "16", "16-le", "16-be")],
)
def test_xml_declares_nothing(attack, encoding, sound, checked, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("PRIVATE")
    root = sound("voc")
    file = root / "Annotations/a.xml"
    text = XML_ATTACKS[attack].format(secret=secret) + file.read_text().replace("cat", "&e;")
    file.write_bytes(text.encode(encoding))
    if attack == "external_entity" and encoding == "utf-8":
        assert "PRIVATE" in careless_names(text)
    said = checked("voc")
    assert "a.xml: a DOCTYPE declaration is not allowed; remove the declaration" in said
    assert "PRIVATE" not in said


def careless_names(text):
    """The character data of an XML text, as a parser reads it that follows external entities."""
    seen = []

    class Handler(xml.sax.handler.ContentHandler):
        def characters(self, content):
            seen.append(content)

    parser = xml.sax.make_parser()
    parser.setFeature(xml.sax.handler.feature_external_ges, True)
    parser.setContentHandler(Handler())
    parser.parse(io.BytesIO(text.encode()))
    return "".join(seen)


@pytest.mark.parametrize("encoding", ["utf-7", "cp037", "rot13", "hex", "utf-32", "idna"])
def test_an_encoding_hides_no_declaration(encoding, sound, checked):
    """A declared encoding is taken by the parser only where the signs of XML stay what they are in ASCII."""
    root = sound("voc")
    file = root / "Annotations/a.xml"
    hidden = '<!DOCTYPE a [<!ENTITY e "x">]>'.encode("utf-7") if encoding == "utf-7" else b""
    file.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + hidden + file.read_bytes())
    said = checked("voc")
    assert "not well-formed XML" in said or "a DOCTYPE declaration is not allowed" in said


def test_xml_of_many_levels(sound, checked):
    root = sound("voc")
    (root / "Annotations/a.xml").write_text("<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>")
    checked("voc", code=0)


# ----------------------------------------------------------------------------------------------------------------- JSON
@pytest.mark.parametrize(
    "text",
    [
        '{"images": ' + "[" * 10**6,
        '{"images": [], "annotations": [], "categories": [], "x": ' + '{"a":' * 10**6,
        '{"images": [' + "9" * 10**5 + '], "annotations": [], "categories": []}',
        '{"images": [{"id": 1, "file_name": "a.png", "height": 1e999, "width": 1' + "0" * 4000 + '}]}',
        '{"images": [{"id": 1, "file_name": "a.png", "height": 1' + "0" * 4000 + ', "width": 60}], "annotations": [], '
        '"categories": [{"id": 1, "name": "cat"}]}',
    ],
    ids=["deep_list", "deep_object", "long_number", "infinite", "size_of_4001_digits"],
)  # fmt: skip
def test_json_that_breaks_parsers(text, sound, checked):
    root = sound("coco")
    (root / "train.json").write_text(text)
    assert "train.json: " in checked("coco")


# ---------------------------------------------------------------------------------------------------------------- paths
def outside(tmp_path):
    """A folder beside the set, with an image that must not be read."""
    folder = tmp_path / "outside"
    folder.mkdir()
    Image.fromarray(np.full((40, 60, 3), 7, np.uint8)).save(folder / "a.png")
    return folder


@pytest.mark.parametrize(
    "name", ["../outside/a.png", "{outside}/a.png", "..\\outside\\a.png", "images/../../outside/a.png"]
)
def test_coco_stays_inside(name, sound, checked, tmp_path):
    folder = outside(tmp_path)
    root = sound("coco")
    document = json.loads((root / "train.json").read_text())
    document["images"][0]["file_name"] = name.format(outside=folder)
    (root / "train.json").write_text(json.dumps(document))
    assert "leaves the folder" in checked("coco")


@pytest.mark.parametrize(
    "text",
    ["path: ..\ntrain: outside", "path: {outside}\ntrain: a.png", "train: ../outside", "train: {outside}",
     "train: images/../../outside", "train: ../outside/list.txt"],
)  # fmt: skip
def test_yolo_stays_inside(text, sound, checked, tmp_path):
    folder = outside(tmp_path)
    (folder / "list.txt").write_text(f"{folder}/a.png\n../outside/a.png\n")
    root = sound("yolo")
    (root / "data.yaml").write_text(f"names: [cat]\n{text.format(outside=folder)}\n")
    assert "is not there, seen from" in checked("yolo")


def test_a_list_of_yolo_stays_inside(sound, checked, tmp_path):
    folder = outside(tmp_path)
    root = sound("yolo")
    (root / "list.txt").write_text(f"images/train/a.png\n../outside/c.png\n{folder}/c.png\n")
    (root / "data.yaml").write_text("names: [cat]\ntrain: list.txt\n")
    assert checked("yolo").count("is no image of the data set") == 2


@pytest.mark.parametrize("name", ["../outside/a", "{outside}/a", "../../outside/a", "x/../../outside/a"])
def test_voc_stays_inside(name, sound, checked, tmp_path):
    folder = outside(tmp_path)
    root = sound("voc")
    (root / "ImageSets/Main/train.txt").write_text(f"b\n{name.format(outside=folder)}\n")
    assert "leaves the folder" in checked("voc")


def test_what_voc_calls_its_image_opens_nothing(sound, checked):
    root = sound("voc")
    file = root / "Annotations/a.xml"
    named = "<filename>/etc/passwd</filename><path>/etc/passwd</path><size>"
    file.write_text(file.read_text().replace("<size>", named))
    checked("voc", code=0)


# ----------------------------------------------------------------------------------------------- what is no plain file
PLACES = {
    "coco": ["train.json", "images/a.png"],
    "voc": ["Annotations/a.xml", "JPEGImages/a.jpg", "ImageSets/Main/train.txt"],
    "yolo": ["data.yaml", "images/train/a.png"],
    "csv": ["train.csv", "a.png"],
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(("data", "place"), [(data, place) for data, places in PLACES.items() for place in places])
def test_no_reader_waits_for_a_pipe_or_reads_a_device_for_ever(kind, data, place, sound, checked):
    root = sound(data)
    file = root / place
    assert file.is_file()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    checked(data)


# ---------------------------------------------------------------------------------------------------------------- names
HARMFUL = ["\x1b]0;owned\x07", "\x1b[2J", "a\nb: fine", "\u202egnp.exe", "<script>alert(1)</script>"]


@pytest.mark.parametrize("name", HARMFUL)
def test_a_name_does_nothing_to_a_terminal_or_page(name, sound, checked):
    root = sound("coco")
    document = json.loads((root / "train.json").read_text())
    document["categories"][0]["name"] = name
    (root / "train.json").write_text(json.dumps(document))
    assert "[name-unsafe]" in checked("coco")


@pytest.mark.parametrize(
    "image_id", ["../../a", "/tmp/a", "..", "a/../../b", "", "\0", "a\0b", "x" * 5000, "\ud800", "a\nb"]
)
def test_the_id_of_an_image_is_no_path(image_id, tmp_path):
    """Maps are called by it."""
    folder = tmp_path / "predictions" / "semantic"
    file = write_map(np.zeros((2, 2), np.uint8), folder, image_id)
    assert file.resolve().is_relative_to(folder.resolve())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


# ------------------------------------------------------------------------------------------------- pickles among images
def test_a_numpy_file_of_objects_runs_nothing(tmp_path, marker):
    file = tmp_path / "a.npy"
    np.save(file, np.array([[Trap(marker)] * 2] * 2, object), allow_pickle=True)
    np.load(file, allow_pickle=True)
    marker.rmdir()
    with pytest.raises(DataError, match="is no image"):
        decode(file)
    file.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(DataError, match="not an image"):
        decode(file)


@pytest.mark.parametrize(
    "header", ["(" * 9000, "{'descr': " + "[" * 4000, "{'descr': 'O', 'x': __import__('os')}", "'", "\n\n  x", "{1:"]
)
def test_a_header_of_numpy_is_no_program(header, tmp_path):
    file = tmp_path / "a.npy"
    text = header.encode()
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 100)
    with pytest.raises(DataError, match="damaged NumPy file"):
        decode(file)


# ----------------------------------------------------------------------------------------------------------- the caches
def test_a_pickle_in_the_cache_of_indices_is_not_read(sound, here, marker, monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_index, "LEAST_BYTES", 0)
    root = sound("coco")
    Coco(root, "train")
    entries = sorted((tmp_path / "cache").rglob("*.flat"))
    assert entries
    content = pickle.dumps(Trap(marker))
    pickle.loads(content)
    marker.rmdir()
    for entry in entries:
        entry.write_bytes(content)
    assert len(Coco(root, "train")) == 2


@pytest.mark.parametrize(
    "told",
    [
        b"[]", b"{", b'{"arrays": {}}', b"[" * 10**5, pickle.dumps(0),
        b'{"header": {}, "arrays": {"a": ["O", [1], 0]}}', b'{"header": {}, "arrays": {"a": ["|O8", [1], 0]}}',
        b'{"header": {}, "arrays": {"a": ["<i8", [1000000000], 0]}}',
        b'{"header": {}, "arrays": {"a": ["<i8", [1], -800]}}',
    ],
)  # fmt: skip
def test_an_entry_that_fits_its_checksum_alone_counts_as_absent(told, tmp_path):
    file = tmp_path / "x.flat"
    index_cache.save(file, {}, {"a": np.zeros(1)})
    magic = file.read_bytes()[: len(index_cache._MAGIC)]
    rest = len(told).to_bytes(8, "little") + told + b"\0" * 8
    file.write_bytes(magic + index_cache.zlib.crc32(rest).to_bytes(4, "little") + rest)
    assert index_cache.load(file) is None


def test_a_pickle_in_the_cache_of_scenes_is_not_read(marker, tmp_path):
    reader = Shapes("train", size=64, count=1, cache_folder=tmp_path)
    drawn = reader.read(0).image
    (scene,) = tmp_path.rglob("*.scene")
    scene.write_bytes(pickle.dumps(Trap(marker)))
    again = Shapes("train", size=64, count=1, cache_folder=tmp_path)
    np.testing.assert_array_equal(again.read(0).image, drawn)
