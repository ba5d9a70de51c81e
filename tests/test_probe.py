from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit import cli
from visionkit.errors import ConfigError, DataError
from visionkit.features import FeatureFile, read_features
from visionkit.probe import labels_of, probe

pytest.importorskip("sklearn")


def file_of(features, labels, names=None):
    names = [f"{index}.png" for index in range(len(features))] if names is None else names
    classes = np.array(sorted(set(labels)))
    numbers = np.array([classes.tolist().index(label) for label in labels])
    return FeatureFile(np.array(names), np.array(features, np.float32), "c5", numbers, classes)


def clouds(count, seed, spread=0.3):
    """Two classes in 20 dimensions, of which the first alone tells them apart."""
    generator = np.random.default_rng(seed)
    labels = ["bee" if index % 2 else "ant" for index in range(count)]
    features = generator.normal(0, 1, (count, 20))
    features[:, 0] = [1 if label == "bee" else -1 for label in labels] + generator.normal(0, spread, count)
    return file_of(features, labels)


# ------------------------------------------------------------------------------------------------------ the classifiers
def test_a_linear_probe_finds_the_one_feature_that_tells():
    train, test = clouds(80, 0), clouds(200, 1)
    probed = probe(train, test)
    assert (probed.answers == labels_of(test)).mean() > 0.95
    assert probed.how.startswith("linear, C=")
    assert probed.how.endswith("in 5-fold cross-validation)")
    # Neighbours look at all features alike, and nineteen say nothing.
    near = probe(train, test, kind="knn", k=5)
    assert (near.answers == labels_of(test)).mean() < (probed.answers == labels_of(test)).mean()


def test_the_scale_of_a_feature_does_not_matter_to_the_linear_probe():
    train, test = clouds(80, 0), clouds(100, 1)
    factors = np.geomspace(1e-3, 1e3, 20).astype(np.float32)
    scaled = [FeatureFile(f.names, f.features * factors, f.level, f.labels, f.classes) for f in (train, test)]
    assert probe(*scaled).answers.tolist() == probe(train, test).answers.tolist()


def test_neighbours_by_hand():
    """By the angle: (1, 0.1) is nearest to (9, 0), however far that is; of three, two are bees."""
    train = file_of([[9, 0], [9, 3], [0, 1], [-1, 1]], ["ant", "bee", "bee", "bee"])
    test = file_of([[1, 0.1], [-1, 2]], ["ant", "bee"])
    assert probe(train, test, kind="knn", k=1).answers.tolist() == ["ant", "bee"]
    assert probe(train, test, kind="knn", k=3).answers.tolist() == ["bee", "bee"]


def test_a_class_of_one_image_needs_no_cross_validation():
    probed = probe(file_of([[0.0, 1], [1, 0], [1.1, 0]], ["a", "b", "b"]), file_of([[0, 1.0], [1, 0.1]], ["a", "b"]))
    assert probed.answers.tolist() == ["a", "b"]
    assert probed.how == "linear, C=1"


def test_labels_come_from_the_file_or_from_folders():
    names, features = np.array(["ants/1.png", "bees/deep/2.png"]), np.ones((2, 3), np.float32)
    assert labels_of(FeatureFile(names, features, "c5")).tolist() == ["ants", "bees"]
    told = FeatureFile(names, features, "c5", np.array([1, 0]), np.array(["x", "y"]))
    assert labels_of(told).tolist() == ["y", "x"]
    with pytest.raises(DataError, match=r"3\.png: nothing tells its class; take features of a folder with"):
        labels_of(FeatureFile(np.array(["a/1.png", "3.png"]), features, "c5"))


def test_what_cannot_be_probed_is_refused():
    one, two = clouds(10, 0), clouds(10, 1)
    with pytest.raises(DataError, match="there are no training images of cat"):
        probe(one, file_of(np.ones((1, 20)), ["cat"]))
    with pytest.raises(DataError, match="all training images are of one class"):
        probe(file_of(np.ones((3, 20)), ["ant"] * 3), file_of(np.ones((3, 20)), ["ant"] * 3))
    with pytest.raises(DataError, match=r"shapes \(20,\) and \(3,\): vectors of one length are wanted"):
        probe(one, file_of(np.ones((2, 3)), ["ant", "bee"]))
    maps = FeatureFile(two.names, np.ones((10, 3, 2, 2), np.float32), "c5", two.labels, two.classes)
    with pytest.raises(DataError, match="vectors of one length"):
        probe(maps, maps)
    with pytest.raises(ConfigError, match="k=11: there are only 10 training images"):
        probe(one, two, kind="knn", k=11)


# ------------------------------------------------------------------------------------------------------- the whole tool
@pytest.fixture
def folders(runs):
    """Red and blue pictures with noise, in folders by class; four of each to learn from and two to be judged by."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, channel in (("red", 0), ("blue", 2)):
            for number in range(count):
                pixels = generator.integers(0, 60, (64, 64, 3), np.uint8)
                pixels[..., channel] += 150
                file = runs / "pictures" / split / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    return runs


def numbers(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())


def test_three_ways_to_the_same_numbers(folders, finished, capsys):
    data = ("data=folder", "data.root=pictures")
    of_run = (f"weights={finished}", "image_size=64", "model.width=0.25", "preprocess=letterbox", "data.workers=0")
    assert cli.main(["probe", *data, *of_run, "level=c4", "run_dir=a"]) == 0
    told = capsys.readouterr().out
    assert "8 train and 4 val images, 32 features of c4; linear, C=" in told
    assert "probe/top1                       1.0000" in told
    assert sorted(path.name for path in Path("a").iterdir()) == [
        "features_train.npz", "features_val.npz", "metrics.json"
    ]  # fmt: skip
    assert cli.main(["probe", f"checkpoint={finished}", *data, "level=c4", "run_dir=b"]) == 0
    assert numbers("a") == numbers("b")
    assert numbers("a")["probe/recall/red"] == 1.0
    for split in ("train", "val"):
        typed = [f"checkpoint={finished}", f"source=pictures/{split}", f"out={split}", "save=[features]"]
        assert cli.main(["predict", *typed, "features.level=c4", "device=cpu"]) == 0
    assert cli.main(["probe", "train=train/features.npz", "test=val/features.npz", "run_dir=c"]) == 0
    assert numbers("c") == {**numbers("a"), "split": "test"}
    assert [path.name for path in Path("c").iterdir()] == ["metrics.json"]
    mine, theirs = read_features(Path("a/features_val.npz")), read_features(Path("val/features.npz"))
    order = [mine.names.tolist().index(f"val/{name}") for name in theirs.names.tolist()]
    np.testing.assert_allclose(mine.features[order], theirs.features, rtol=1e-3, atol=1e-5)


def test_the_split_that_is_asked_for_is_judged(folders, finished):
    typed = ["probe", f"checkpoint={finished}", "data=folder", "data.root=pictures", "kind=knn", "k=1"]
    assert cli.main([*typed, "data.splits.test=val", "run_dir=a"]) == 0
    assert cli.main([*typed, "run_dir=b"]) == 0
    assert (numbers("a")["split"], numbers("b")["split"]) == ("test", "val")
    assert cli.main([*typed, "data.split=train", "run_dir=c"]) == 2
    assert not Path("c").exists()


def test_mistakes_end_with_two_and_a_line_before_anything_is_written(folders, finished, capsys, monkeypatch):
    data = ["data=folder", "data.root=pictures", "run_dir=a"]
    for typed, said in (
        (["kind=linar"], "kind=linar: one of linear, knn is wanted (did you mean 'linear'?)"),
        (["k=0"], "k=0: 1 or more is wanted"),
        (["kind=knn", "k=100"], "k=100: there are only 8 training images"),
        (["level=c9"], "level=c9: the model has c2, c3, c4, c5"),
        (["neighbours=3"], "neighbours: there is no such key"),
    ):
        assert cli.main(["probe", f"checkpoint={finished}", *data, *typed]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["probe", f"checkpoint={finished}", "run_dir=a"]) == 2
    assert "one class is wanted for each image; this one has several, or none" in capsys.readouterr().err
    assert cli.main(["probe", "train=gone.npz", "test=gone.npz", "run_dir=a"]) == 2
    assert "gone.npz: there is no such file" in capsys.readouterr().err
    assert cli.main(["probe", "train=gone.npz", "data=folder", "run_dir=a"]) == 2
    assert "data=folder: probe with train= takes no data" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert cli.main(["probe", f"checkpoint={finished}", *data]) == 2
    assert "scikit-learn is not installed; pip install 'visionkit[probe]'" in capsys.readouterr().err
    assert not Path("a").exists()
