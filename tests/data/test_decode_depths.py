"""Images of other channels and depths than three and eight, and files that lie."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from visionkit.data.decode import check_file, decode, image_size
from visionkit.errors import ConfigError, DataError
from visionkit.structures import Decoding


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Random numbers over the whole range, or from -2 to 3."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.uniform(-2, 3, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def packed_by_pillow(content: bytes, name: str) -> bytes:
    """Bytes packed by libtiff: one row of grey pixels, taken out of its file."""
    out = io.BytesIO()
    Image.frombytes("L", (len(content), 1), content).save(out, "TIFF", compression=name)
    with Image.open(out) as image:
        (start,), (length,) = image.tag_v2[273], image.tag_v2[279]
    return out.getvalue()[start : start + length]


def tiff(
    pages: list[np.ndarray],
    *,
    order: str = "<",
    deflate: bool = False,
    by_pillow: str | None = None,
    planar: bool = False,
    tile: int | None = None,
    predictor: int = 1,
    orientation: int = 1,
    alpha: bool = False,
    rows: int = 3,
    size: tuple[int, int] | None = None,
) -> bytes:
    """A TIFF file of (H, W, C) pages, written by the book (TIFF 6.0)."""
    out = io.BytesIO()
    out.write((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 0))
    link = 4
    for page in pages:
        height, width, samples = page.shape
        stored = page.astype(page.dtype.newbyteorder(order))
        planes = [stored[..., [k]] for k in range(samples)] if planar else [stored]
        parts = []
        for plane in planes:
            for top in range(0, height, tile or rows):
                for left in range(0, width, tile or width):
                    part = plane[top : top + (tile or rows), left : left + (tile or width)]
                    if tile:
                        part = np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)))
                    if predictor == 2:
                        part = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1).astype(part.dtype)
                    content = np.ascontiguousarray(part).tobytes()
                    content = packed_by_pillow(content, by_pillow) if by_pillow else content
                    parts.append(zlib.compress(content) if deflate else content)
        offsets = []
        for part in parts:
            offsets.append(out.tell())
            out.write(part)
        kind = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        shown = size or (height, width)
        compression = 8 if deflate else {None: 1, "tiff_lzw": 5, "packbits": 32773}[by_pillow]
        tags = {256: [shown[1]], 257: [shown[0]], 258: [page.itemsize * 8] * samples, 259: [compression],
                262: [1], 274: [orientation], 277: [samples], 284: [2 if planar else 1], 317: [predictor],
                339: [kind] * samples}  # fmt: skip
        tags |= {324 if tile else 273: offsets, 325 if tile else 279: [len(part) for part in parts]}
        tags |= {322: [tile], 323: [tile]} if tile else {278: [rows]}
        tags |= {338: [2]} if alpha else {}
        place = {}
        for tag, numbers in tags.items():
            if len(numbers) > 1:
                place[tag] = out.tell()
                out.write(struct.pack(f"{order}{len(numbers)}I", *numbers))
        directory = out.tell()
        out.write(struct.pack(f"{order}H", len(tags)))
        for tag, numbers in sorted(tags.items()):
            value = place.get(tag, numbers[0])
            out.write(struct.pack(f"{order}HHII", tag, 4, len(numbers), value))
        end = out.tell()
        out.write(struct.pack(f"{order}I", 0))
        out.seek(link)
        out.write(struct.pack(f"{order}I", directory))
        out.seek(0, io.SEEK_END)
        link = end
    return out.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


DEPTHS = {"uint8": 8, "uint16": 16, "float32": "float"}


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_numpy_files_come_back_as_they_are(tmp_path: Path, dtype: str, channels: int) -> None:
    wanted = values((5, 7, channels), dtype)
    np.save(tmp_path / "a.npy", wanted)
    pixels = decode(tmp_path / "a.npy", Decoding(channels, DEPTHS[dtype]))
    np.testing.assert_array_equal(pixels, wanted)
    assert pixels.dtype == dtype and pixels.flags.writeable and pixels.flags.c_contiguous
    assert image_size(tmp_path / "a.npy") == check_file(tmp_path / "a.npy") == (5, 7)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"order": ">"}, {"deflate": True}, {"planar": True}, {"tile": 16},
        {"deflate": True, "tile": 16, "planar": True}, {"by_pillow": "tiff_lzw"}, {"by_pillow": "packbits"},
        {"by_pillow": "tiff_lzw", "tile": 16, "planar": True, "order": ">"},
    ],
    ids=str,
)  # fmt: skip
def test_tiff_bands_come_back_as_they_are(tmp_path: Path, dtype: str, channels: int, options: dict) -> None:
    wanted = values((20, 23, channels), dtype)
    path = written(tmp_path / "a.tif", tiff([wanted], **options))
    np.testing.assert_array_equal(decode(path, Decoding(channels, DEPTHS[dtype])), wanted)
    assert image_size(path) == check_file(path) == (20, 23)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_of_differences(tmp_path: Path, dtype: str) -> None:
    wanted = values((20, 23, 5), dtype)
    for packing in ({"deflate": True}, {"by_pillow": "tiff_lzw"}):
        path = written(tmp_path / "a.tif", tiff([wanted], predictor=2, **packing))
        np.testing.assert_array_equal(decode(path, Decoding(5, DEPTHS[dtype])), wanted)


def test_lzw_of_one_value_is_as_small_as_can_be(tmp_path: Path) -> None:
    """It is packed to less than a thousandth, and not taken for a header that lies."""
    wanted = np.zeros((1000, 1500, 5), np.uint8)
    path = written(tmp_path / "a.tif", tiff([wanted], by_pillow="tiff_lzw", rows=1000))
    assert path.stat().st_size < wanted.nbytes / 1000
    np.testing.assert_array_equal(decode(path, Decoding(5)), wanted)


def test_damaged_and_unknown_packing_is_refused(tmp_path: Path) -> None:
    content = bytearray(tiff([values((20, 23, 6), "uint16")], by_pillow="tiff_lzw"))
    content[8:200] = b"\xff" * 192
    with pytest.raises(DataError, match=r"a\.tif: cannot be decoded \(.*\); save it again"):
        decode(written(tmp_path / "a.tif", bytes(content)), Decoding(6, 16))
    other = tiff([values((20, 23, 6), "uint16")]).replace(
        struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 50000)
    )
    with pytest.raises(DataError) as caught:
        decode(written(tmp_path / "b.tif", other), Decoding(6, 16))
    fault = "a TIFF of 6 bands of 16 bits, compression 50000 cannot be read"
    assert str(caught.value).endswith(f"b.tif: {fault}; save it with Deflate, LZW or no compression")


def test_pillow_and_opencv_read_the_same_tiff(tmp_path: Path) -> None:
    grey, colour = values((9, 8, 1), "uint16"), values((9, 8, 3), "uint16")
    first, second = written(tmp_path / "1.tif", tiff([grey])), written(tmp_path / "3.tif", tiff([colour]))
    with Image.open(first) as image:
        np.testing.assert_array_equal(decode(first, Decoding(1, 16))[..., 0], np.asarray(image))
    cv2.imwrite(str(tmp_path / "cv.tif"), colour[..., ::-1])  # LZW
    np.testing.assert_array_equal(decode(tmp_path / "cv.tif", Decoding(3, 16)), decode(second, Decoding(3, 16)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_turned_like_any_image(tmp_path: Path, orientation: int) -> None:
    pixels = values((4, 6, 5), "uint16")
    path = written(tmp_path / "a.tif", tiff([pixels], orientation=orientation))
    grey = written(tmp_path / "b.tif", tiff([pixels[..., :1].astype(np.uint8)], orientation=orientation))
    turned = decode(path, Decoding(5, 16))
    np.testing.assert_array_equal(turned[..., 0].astype(np.uint8), decode(grey)[..., 0])  # by Pillow
    assert image_size(path) == image_size(grey) == turned.shape[:2]


@pytest.mark.parametrize("dtype", DEPTHS)
def test_pages_become_channels_where_several_are_wanted(tmp_path: Path, dtype: str) -> None:
    pages = [values((5, 7, 1), dtype, seed) for seed in range(4)]
    path = written(tmp_path / "a.tif", tiff(pages))
    np.testing.assert_array_equal(decode(path, Decoding(4, DEPTHS[dtype])), np.concatenate(pages, axis=2))
    np.testing.assert_array_equal(decode(path, Decoding(1, DEPTHS[dtype])), pages[0])
    with pytest.raises(DataError, match=r"a\.tif: it holds 1 channel, and data\.channels=5"):
        decode(path, Decoding(5, DEPTHS[dtype]))
    pages[2] = pages[2][:, :5]
    with pytest.raises(DataError, match="its pages differ in size or depth"):
        decode(written(path, tiff(pages)), Decoding(4, DEPTHS[dtype]))


def test_depths_become_each_other_by_the_policy(tmp_path: Path) -> None:
    np.save(tmp_path / "8.npy", np.array([[0, 1, 255]], np.uint8))
    np.save(tmp_path / "16.npy", np.array([[0, 255, 256, 65535]], np.uint16))
    np.save(tmp_path / "64.npy", np.array([[-1.5, 0.25, 3000.0]], np.float64))
    assert decode(tmp_path / "8.npy", Decoding(1, 16)).ravel().tolist() == [0, 257, 65535]
    assert decode(tmp_path / "8.npy", Decoding(1, "float")).ravel().tolist() == pytest.approx([0, 1 / 255, 1])
    assert decode(tmp_path / "16.npy", Decoding(1, 8)).ravel().tolist() == [0, 0, 1, 255]
    assert decode(tmp_path / "16.npy", Decoding(1, "float")).ravel().tolist() == pytest.approx(
        [0, 255 / 65535, 256 / 65535, 1]
    )
    floats = decode(tmp_path / "64.npy", Decoding(1, "float"))
    assert floats.dtype == np.float32 and floats.ravel().tolist() == [-1.5, 0.25, 3000.0]
    for depth in (8, 16):
        with pytest.raises(DataError, match=r"64\.npy: 32-bit samples have no known range; .* data\.bit_depth=float"):
            decode(tmp_path / "64.npy", Decoding(1, depth))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan]], np.float32), "not finite; replace them"),
        (np.array([[1, 2]], np.int32), "samples of int32 have no known range"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"an array \(2, 2, 2, 2\) uint8 is no image"),
        (np.zeros((0, 2), np.uint8), r"an array \(0, 2\) uint8 is no image"),
        (np.array([[{}]], object), "is no image"),
        (np.asfortranarray(np.zeros((2, 3), np.uint8)), "in Fortran order"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy: .*{message}"):
        decode(tmp_path / "a.npy", Decoding(1, "float"))


def test_sixteen_bits_of_a_png_are_kept(tmp_path: Path) -> None:
    colour = values((4, 5, 3), "uint16")
    cv2.imwrite(str(tmp_path / "a.png"), colour[..., ::-1])
    np.testing.assert_array_equal(decode(tmp_path / "a.png", Decoding(3, 16)), colour)
    Image.fromarray(colour[..., 0]).save(tmp_path / "b.png")
    np.testing.assert_array_equal(decode(tmp_path / "b.png", Decoding(1, 16))[..., 0], colour[..., 0])
    assert (decode(tmp_path / "b.png", Decoding(3, 16)) == colour[..., :1]).all()


def test_alpha_stays_where_four_channels_are_wanted_and_is_over_white_otherwise(tmp_path: Path) -> None:
    pixels = np.array([[[65535, 0, 0, 65535], [65535, 0, 0, 0], [0, 0, 0, 13107]]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., [2, 1, 0, 3]])
    np.testing.assert_array_equal(decode(tmp_path / "a.png", Decoding(4, 16)), pixels)
    over = decode(tmp_path / "a.png", Decoding(3, 16))
    assert over.tolist() == [[[65535, 0, 0], [65535] * 3, [52428] * 3]]  # 0.8 of white
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(decode(tmp_path / "b.png", Decoding(4)), pixels >> 8)
    path = written(tmp_path / "a.tif", tiff([pixels], alpha=True))
    np.testing.assert_array_equal(decode(path, Decoding(3, 16)), over)
    with pytest.raises(DataError, match="it holds 4 channels, and data"):
        decode(written(path, tiff([pixels])), Decoding(3, 16))  # a fourth band of unknown meaning


def test_nothing_is_made_up_for_four_channels(tmp_path: Path) -> None:
    for mode, count in (("RGB", "3 channels"), ("L", "1 channel"), ("CMYK", "3 channels")):
        Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=rf"a\.tif: it holds {count}, and data\.channels=4; give data\.channels="):
            decode(tmp_path / "a.tif", Decoding(4))
    path = written(tmp_path / "b.tif", tiff([values((5, 7, 6), "uint8")]))
    with pytest.raises(DataError, match="it holds 6 channels, and data"):
        decode(path)


def test_a_decoding_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.channels=0: 1 or more"):
        Decoding(0)
    with pytest.raises(ConfigError, match=r"data\.bit_depth=12: one of 8, 16, float"):
        Decoding(3, 12)


# -------------------------------------------------------------------------------------------------- names and headers
@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_the_content_decides_what_a_file_is(tmp_path: Path, form: str) -> None:
    image = Image.fromarray(np.full((4, 6, 3), 200, np.uint8))
    image.save(tmp_path / "a.jpg", form)
    assert decode(tmp_path / "a.jpg").shape == (4, 6, 3)
    assert check_file(tmp_path / "a.jpg") == (4, 6)


def test_a_program_is_no_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(DataError, match=r"a\.eps: not an image"):
        decode(tmp_path / "a.eps")


def test_a_jpeg_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (160, 120), "green").save(content, "JPEG")
    data = bytearray(content.getvalue())
    place = data.find(b"\xff\xc0") + 5
    data[place : place + 2] = (30_000).to_bytes(2, "big")
    path = written(tmp_path / "a.jpg", bytes(data))
    for function in (decode, image_size, check_file):
        with pytest.raises(
            DataError, match=r"a\.jpg: the header promises 4800000 pixels, more than \d+ bytes can hold"
        ):
            function(path)


def test_plain_pictures_hold_what_they_promise(tmp_path: Path) -> None:
    for progressive in (False, True):
        Image.new("L", (1000, 1000)).save(tmp_path / "a.jpg", quality=1, optimize=True, progressive=progressive)
        assert decode(tmp_path / "a.jpg").shape == (1000, 1000, 3)


def test_a_png_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[20:24] = (1_000_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match=r"a\.png: the header promises 40000000 pixels"):
        decode(written(tmp_path / "a.png", bytes(data)))


def test_numpy_and_tiff_headers_that_lie_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 10, 3), np.uint8))
    data = (tmp_path / "a.npy").read_bytes()
    lying = written(tmp_path / "b.npy", data.replace(b"(10, 10, 3), }", b"(999, 999, 9)}"))
    for function in (decode, image_size, check_file):
        with pytest.raises(DataError, match=r"b\.npy: the file ends too early"):
            function(lying)
    pixels = values((5, 7, 6), "uint8")
    for deflate in (False, True):
        path = written(tmp_path / "a.tif", tiff([pixels], deflate=deflate, size=(9000, 9000), rows=9000))
        with pytest.raises(DataError, match=r"a\.tif: the file ends too early"):
            decode(path, Decoding(6))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    np.save(tmp_path / "c.npy", np.zeros((5, 7), np.uint8))
    for path in (written(tmp_path / "a.tif", tiff([pixels])), tmp_path / "c.npy"):
        for function in (decode, image_size, check_file):
            with pytest.raises(DataError, match="7 x 5, more than 34 pixels"):
                function(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cut_files_are_refused(tmp_path: Path, share: float) -> None:
    pixels = values((20, 23, 6), "uint16")
    np.save(tmp_path / "a.npy", pixels)
    written(tmp_path / "a.tif", tiff([pixels]))
    written(tmp_path / "b.tif", tiff([pixels], by_pillow="tiff_lzw"))
    for path in (tmp_path / "a.npy", tmp_path / "a.tif", tmp_path / "b.tif"):
        data = path.read_bytes()
        with pytest.raises(DataError, match=rf"{path.name}: "):
            decode(written(path, data[: int(len(data) * share)]), Decoding(6, 16))


# --------------------------------------------------------------------------------------------------- at reduced scale
def photo(height: int, width: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("least", "shape"),
    [
        ((301, 10), (600, 800)), ((300, 400), (300, 400)), ((300, 401), (600, 800)), ((150, 1), (150, 200)),
        ((1, 1), (75, 100)),
    ],
)  # fmt: skip
def test_a_jpeg_is_decoded_as_small_as_is_allowed(
    tmp_path: Path, least: tuple[int, int], shape: tuple[int, int]
) -> None:
    photo(600, 800).save(tmp_path / "a.jpg", quality=95)
    pixels = decode(tmp_path / "a.jpg", least=least)
    assert pixels.shape == (*shape, 3)
    full = cv2.resize(decode(tmp_path / "a.jpg"), shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(full.astype(int) - pixels).mean() < 2


def test_sides_that_do_not_divide_are_rounded_up(tmp_path: Path) -> None:
    photo(61, 83).save(tmp_path / "a.jpg")
    assert [decode(tmp_path / "a.jpg", least=(61 // k, 83 // k)).shape[:2] for k in (1, 2, 4, 8)] == [
        (61, 83), (31, 42), (16, 21), (8, 11),
    ]  # fmt: skip


def test_orientation_and_least_go_together(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(100, 400).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg", least=(200, 50)).shape == (200, 50, 3)
    assert decode(tmp_path / "a.jpg", least=(50, 60)).shape == (400, 100, 3)
    photo(100, 400).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", least=(10, 10)).shape == (100, 400, 3)
