"""The decoder's policy, case by case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from visionkit.data.decode import check_file, decode, image_size
from visionkit.errors import DataError
from visionkit.structures import Decoding

HYMENOPTERA = Path(__file__).parents[2] / "../shared/data/hymenoptera"


def photo(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """A smooth coloured picture with no symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_turns_pixels_and_size_alike(tmp_path: Path, orientation: int, suffix: str) -> None:
    image = photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(image, tmp_path / f"turned{suffix}", exif=exif)
    with Image.open(path) as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    pixels = decode(path)
    np.testing.assert_array_equal(pixels, wanted)
    assert pixels.flags.c_contiguous and pixels.flags.writeable
    assert image_size(path) == check_file(path) == wanted.shape[:2] == ((60, 40) if orientation >= 5 else (40, 60))


def test_plain_jpeg_equals_pillow(tmp_path: Path) -> None:
    path = saved(photo(123, 77), tmp_path / "plain.jpg", quality=85)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode(path), np.asarray(image))


def test_grey_jpeg_becomes_rgb(tmp_path: Path) -> None:
    path = saved(photo().convert("L"), tmp_path / "grey.jpg")
    pixels = decode(path)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


def test_cmyk_jpeg_goes_through_pillow(tmp_path: Path) -> None:
    path = saved(photo().convert("CMYK"), tmp_path / "cmyk.jpg", quality=95)
    pixels = decode(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert np.abs(pixels.astype(int) - np.asarray(photo())).mean() < 6


def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 257 * 100, 65535]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "deep.png")
    assert decode(path)[0, :, 0].tolist() == [0, 0, 1, 100, 255]
    assert decode(path).shape == (1, 5, 3)


def test_sixteen_bit_colour_follows_the_same_rule(tmp_path: Path) -> None:
    import cv2

    values = np.array([[[0, 255, 256], [257 * 100, 65535, 511]]], np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., ::-1])
    assert decode(tmp_path / "deep.png").tolist() == [[[0, 0, 1], [100, 255, 1]]]


def test_thirty_two_bit_is_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.ones((4, 4), np.float32)), tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: 32-bit samples .* save it with 8 or 16 bits"):
        decode(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 1), (100, 100, 100, 255) if mode == "RGBA" else (100, 255))
    image.putpixel((1, 0), (100, 100, 100, 0) if mode == "RGBA" else (100, 0))
    image.putpixel((2, 0), (100, 100, 100, 51) if mode == "RGBA" else (100, 51))
    pixels = decode(saved(image, tmp_path / "alpha.png"))
    assert pixels[0, :, 0].tolist() == [100, 255, 224]  # 224 = 255 - 0.2 * 155


def test_palette_and_its_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decode(saved(image, tmp_path / "palette.png")).tolist() == [[[10, 20, 30], [200, 100, 50], [10, 20, 30]]]
    clear = decode(saved(image, tmp_path / "clear.png", transparency=1))
    assert clear.tolist() == [[[10, 20, 30], [255, 255, 255], [10, 20, 30]]]


def test_one_bit_image(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decode(saved(image, tmp_path / "bits.png")).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert decode(path)[0, 0].tolist() == [255, 0, 0]


def test_one_channel_is_luma(tmp_path: Path) -> None:
    image = Image.new("RGB", (1, 1), (100, 50, 200))
    pixels = decode(saved(image, tmp_path / "one.png"), Decoding(channels=1))
    assert pixels.shape == (1, 1, 1) and pixels[0, 0, 0] == 82  # 0.299 * 100 + 0.587 * 50 + 0.114 * 200
    with pytest.raises(DataError, match=r"one\.png: it holds 3 channels, and data\.channels=4; give data\.channels=3"):
        decode(tmp_path / "one.png", Decoding(channels=4))


# ------------------------------------------------------------------------------------------------------ damaged files
def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, lenient: bool) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # some libraries set it for the whole process
    path = cut(saved(photo(200, 300), tmp_path / f"cut{suffix}"), 0.7)
    with pytest.raises(DataError, match=rf"cut\{suffix}: the file ends too early .* save it again"):
        check_file(path)
    with pytest.raises(DataError, match=rf"cut\{suffix}: the file ends too early .* save it again"):
        decode(path)


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_other_truncated_files_are_refused_at_decoding(tmp_path: Path, suffix: str) -> None:
    path = cut(saved(photo(), tmp_path / f"cut{suffix}"), 0.7)
    with pytest.raises(DataError, match=rf"cut\{suffix}: .*; save it again"):
        decode(path)


@pytest.mark.parametrize("progressive", [False, True])
def test_an_end_marker_in_the_header_does_not_hide_truncation(tmp_path: Path, progressive: bool) -> None:
    path = saved(photo(200, 300), tmp_path / "cut.jpg", progressive=progressive)
    data = path.read_bytes()
    comment = b"\xff\xfe\x00\x0a" + b"\xff\xd8\xff\xd9" * 2  # as a thumbnail has it
    path.write_bytes(data[:2] + comment + data[2:])
    assert check_file(path) == (200, 300)
    cut(path, 0.9)
    with pytest.raises(DataError, match="ends too early"):
        check_file(path)
    with pytest.raises(DataError, match="ends too early"):
        decode(path)


def test_data_behind_the_end_marker_is_allowed(tmp_path: Path) -> None:
    path = saved(photo(), tmp_path / "camera.jpg")
    wanted = decode(path)
    path.write_bytes(path.read_bytes() + b"maker's own " * 50)
    assert check_file(path) == (40, 60)
    np.testing.assert_array_equal(decode(path), wanted)


@pytest.mark.parametrize("function", [decode, image_size, check_file])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, function: Callable[[Path], object]) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is no picture\n" * 20)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match=r"empty\.jpg: the file is empty"):
        function(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match=r"text\.jpg: not an image; save it again as JPEG or PNG"):
        function(tmp_path / "text.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg: no such file"):
        function(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"folder\.jpg: cannot be opened"):
        function(tmp_path / "folder.jpg")


@pytest.mark.parametrize("limit", [2399, 1000])  # above the limit, and above twice the limit, where Pillow raises
def test_image_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = saved(photo(), tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for function in (decode, image_size, check_file):
        with pytest.raises(DataError, match=rf"huge\.png: .*more than {limit} pixels; cut it into tiles"):
            function(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2400)
    assert check_file(path) == (40, 60)


def test_damaged_exif_is_passed_over(tmp_path: Path) -> None:
    path = saved(photo(), tmp_path / "exif.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode(path).shape == (40, 60, 3)
    assert image_size(path) == (40, 60)


@pytest.mark.skipif(not HYMENOPTERA.is_dir(), reason="hymenoptera is not beside the project")
def test_real_photographs() -> None:
    for path in sorted(HYMENOPTERA.rglob("*.jpg"))[::40]:
        assert decode(path).shape == (*check_file(path), 3)
