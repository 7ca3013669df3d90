"""Zips of class folders: what is found in them, what its class and its split is, and what the pixels are."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeezer.data import sources
from squeezer.data.dataset import Split
from squeezer.data.folders import arrange
from squeezer.errors import Code
from squeezer.graph import Input
from tests.data.making import IMAGE, Array, encoded, everything, opened, problem, zipped

RNG = np.random.default_rng(0)
SIZE = (8, 10)


def pixels(count: int, channels: tuple[int, ...] = (3,)) -> Array:
    """Images (count, 8, 10, ...) whose first pixel is their number."""
    images = RNG.integers(0, 256, (count, *SIZE, *channels), np.uint8)
    images[:, 0, 0] = np.arange(count).reshape(-1, *[1] * len(channels))
    return images


def class_folders(images: Array, prefix: str = "", kind: str = "PNG") -> dict[str, bytes]:
    """Files in three classes, `a` to `c`, in turn."""
    return {f"{prefix}{'abc'[i % 3]}/{i}.{kind.lower()}": encoded(image, kind) for i, image in enumerate(images)}


@pytest.mark.parametrize("memory", [1 << 28, 40 * 240, 0])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_pixels_come_back(tmp_path: Path, memory: int, method: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept all, in part or not at all."""
    monkeypatch.setattr(sources, "MEMORY_BYTES", memory)
    images = pixels(120)
    path = zipped(tmp_path / "data", class_folders(images, kind=kind), method)
    dataset = opened(path, IMAGE, transform={"scale": 1 / 255}, outputs=(None, 3))
    seen = []
    for split in Split:
        for _ in range(2):
            (inputs,), targets = everything(dataset, split)
            places = np.round(inputs[:, 0, 0, 0] * 255).astype(int)
            np.testing.assert_allclose(inputs, images[places].transpose(0, 3, 1, 2) / 255, rtol=1e-6)
            np.testing.assert_array_equal(targets, places % 3)
        seen += places.tolist()
    assert sorted(seen) == list(range(120))
    dataset.close()


def test_jpeg_as_pillow_decodes_it(tmp_path: Path) -> None:
    members = class_folders(pixels(60), kind="JPEG")
    decoded = {
        np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1).tobytes(): "abc".index(name[0])
        for name, content in members.items()
    }
    (inputs,), targets = everything(opened(zipped(tmp_path / "data", members), IMAGE), Split.TRAIN)
    assert targets is not None
    assert [decoded[image.astype(np.uint8).tobytes()] for image in inputs] == targets.tolist()


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey = pixels(60, ())
    path = zipped(tmp_path / "data", class_folders(grey))
    (three,) = everything(opened(path, IMAGE), Split.TRAIN).inputs
    np.testing.assert_array_equal(three, np.repeat(grey[three[:, 0, 0, 0].astype(int), None], 3, axis=1))
    for shape in ((1, *SIZE), SIZE, (80,)):
        (one,) = everything(opened(path, Input("x", (None, *shape), "F32")), Split.TRAIN).inputs
        expected = grey[one.reshape(len(one), -1)[:, 0].astype(int)]
        np.testing.assert_array_equal(one, expected.reshape(len(one), *shape))


def test_the_users_own_splits(tmp_path: Path) -> None:
    images = pixels(90)
    members = (
        class_folders(images[:60], "d/train/") | class_folders(images[60:75], "d/val/") | {"d/README.md": b"read me"}
    )
    dataset = opened(zipped(tmp_path / "data", members | class_folders(images[75:], "d/test/")), IMAGE)
    assert [dataset.size(split) for split in Split] == [60, 15, 15]
    dataset = opened(zipped(tmp_path / "more", members), IMAGE)
    assert dataset.size(Split.VALIDATION) == 15
    assert dataset.size(Split.TRAIN) + dataset.size(Split.TEST) == 60


def labels_of(*paths: str) -> dict[str, tuple[str, int | None]]:
    """Split and label of each path."""
    found = {}
    for split, (positions, labels) in arrange(paths).items():
        for place, position in enumerate(positions):
            found[paths[position]] = (str(split), None if labels is None else int(labels[place]))
    return found


def test_classes_are_folders_in_the_order_of_their_names() -> None:
    assert labels_of("10/x", "9/x", "b/x", "B/x") == {
        "10/x": ("train", 0),
        "9/x": ("train", 1),  # texts are sorted, not numbers, as torchvision does
        "B/x": ("train", 2),
        "b/x": ("train", 3),
    }
    assert labels_of("a/deep/er/x", "b/y")["a/deep/er/x"] == ("train", 0)


def test_folders_around_everything_do_not_count() -> None:
    assert labels_of("data/a/x", "data/b/y") == {"data/a/x": ("train", 0), "data/b/y": ("train", 1)}
    assert labels_of("d/e/train/a/x", "d/e/test/b/y") == {"d/e/train/a/x": ("train", 0), "d/e/test/b/y": ("test", 1)}


def test_folders_of_splits_and_of_classes_that_are_called_so() -> None:
    assert labels_of("train/a/x", "validation/a/y", "test/b/z") == {
        "train/a/x": ("train", 0),
        "validation/a/y": ("validation", 0),
        "test/b/z": ("test", 1),
    }
    assert labels_of("train/x", "plane/y") == {"train/x": ("train", 1), "plane/y": ("train", 0)}


def test_images_in_no_folder_have_no_labels(tmp_path: Path) -> None:
    assert labels_of("x", "y") == {"x": ("train", None), "y": ("train", None)}
    assert labels_of("train/x", "test/y") == {"train/x": ("train", None), "test/y": ("test", None)}
    flat = {name.replace("/", ""): content for name, content in class_folders(pixels(60)).items()}
    dataset = opened(zipped(tmp_path / "data", flat), IMAGE)
    assert not dataset.labelled
    flat["a/x.png"] = flat["a0.png"]
    assert "no class folder" in problem(zipped(tmp_path / "data", flat), IMAGE).detail


def test_one_folder_is_one_class(tmp_path: Path) -> None:
    one = {name.replace("/", "-").join(("all/", "")): content for name, content in class_folders(pixels(60)).items()}
    assert "one class alone" in problem(zipped(tmp_path / "data", one), IMAGE).detail


def test_duplicates_are_told_by_their_pixels(tmp_path: Path) -> None:
    images = pixels(100)
    twice = class_folders(images) | {
        f"c/again{i}.png": encoded(image, compress_level=0) for i, image in enumerate(images)
    }
    dataset = opened(zipped(tmp_path / "data", twice), IMAGE)
    rows = [{row.tobytes() for row in everything(dataset, split).inputs[0]} for split in Split]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 100


def test_sizes_that_differ(tmp_path: Path) -> None:
    members = class_folders(pixels(60)) | {"b/large.png": encoded(np.zeros((9, 10, 3), np.uint8))}
    path = zipped(tmp_path / "data", members)
    error = problem(path, IMAGE)
    assert "'b/large.png'" in error.detail
    assert "9 high and 10 wide" in error.detail
    assert "resize" in error.detail
    dataset = opened(path, IMAGE, transform={"resize": SIZE})
    assert sum(dataset.size(split) for split in Split) == 61
    assert "resize" in problem(path, Input("x", (None, 3, 16, 16), "F32")).detail


def test_resize_averages_and_keeps_what_is_flat(tmp_path: Path) -> None:
    members = {f"{'ab'[i % 2]}/{i}.png": encoded(np.full((16 + i % 3, 20, 3), 4 * i, np.uint8)) for i in range(60)}
    dataset = opened(zipped(tmp_path / "data", members), IMAGE, transform={"resize": SIZE})
    (inputs,) = everything(dataset, Split.TRAIN).inputs
    assert inputs.shape[1:] == (3, *SIZE)
    assert (inputs == inputs[:, :1, :1, :1]).all()
    assert set(inputs[:, 0, 0, 0].astype(int)) <= {4 * i for i in range(60)}


def test_networks_that_want_other_things(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data", class_folders(pixels(60)))
    assert "2 inputs" in problem(path, IMAGE, IMAGE).detail
    assert "1 or 3 channels" in problem(path, Input("x", (None, 4, *SIZE), "F32")).detail
    assert "(81)" in problem(path, Input("x", (None, 81), "F32")).detail
    assert "Leave them out" in problem(path, IMAGE, targets="y").detail


def test_other_files(tmp_path: Path) -> None:
    members = class_folders(pixels(60))
    clutter = {"__MACOSX/a/._0.png": b"x", "a/.DS_Store": b"x", "b/Thumbs.db": b"x", "labels.csv": b"a,b"}
    opened(zipped(tmp_path / "data", members | clutter), IMAGE).close()
    error = problem(zipped(tmp_path / "data", members | {"a/x.GIF": b"GIF89a"}), IMAGE)
    assert "'a/x.GIF' of the data set is no PNG, JPEG or BMP" in error.detail
    assert problem(zipped(tmp_path / "data", {"readme.txt": b"x"}), IMAGE).code is Code.UNKNOWN_DATA


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    """Pillow would make them white."""
    members = class_folders(pixels(60)) | {"a/x.png": encoded(np.full(SIZE, 40000, np.uint16))}
    assert "'a/x.png' of the data set has more than 8 bits" in problem(zipped(tmp_path / "data", members), IMAGE).detail
