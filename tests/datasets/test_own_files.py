"""Files of one's own: each format in its published layout is read as what it holds, or refused."""

import gzip
import importlib.util
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn.datasets import DataError, DataSpec, Preparation, cache, open_data, read_image
from minicnn.runs import data_sha256

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(20, 6, 6), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 2
COLOURS = RNG.integers(256, size=(20, 3, 6, 6), dtype=np.uint8)


@pytest.fixture(autouse=True)
def entries(tmp_path_factory, monkeypatch):
    """The folder of the cache, for these tests alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(cache, "folder", lambda: folder)
    return folder


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folders(folder, names=("cat", "dog"), images=IMAGES):
    """images[i] as NAME/i.png, of the classes in turn."""
    for i, pixels in enumerate(images):
        save(folder / names[i % len(names)] / f"{i:02}.png", pixels)
    return folder


def write_idx(path, array):
    kind = 8 if array.dtype == np.uint8 else 12
    content = struct.pack(f">4B{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    content += array.astype(f">i{array.itemsize}" if kind == 12 else "u1").tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def joined(parts):
    """{image as bytes: name of its class} of train and test together."""
    return {
        image.tobytes(): part.classes[label]
        for part in parts
        for image, label in zip(part.images, part.labels)
    }


def truth(names, images=IMAGES, labels=LABELS):
    return {image.tobytes(): names[label] for image, label in zip(images, labels)}


def test_a_folder_for_each_class(tmp_path):
    train, test = parts = open_data(class_folders(tmp_path / "pets"), size=6)
    assert joined(parts) == truth(("cat", "dog"))
    assert (len(train), len(test)) == (16, 4) and train.images.shape == (16, 1, 6, 6)
    assert np.bincount(test.labels).tolist() == [2, 2]  # a fifth of each class
    assert (train.name, train.classes) == ("pets", ("cat", "dog"))
    assert train.preparation == Preparation((6, 6), False, invert=False)
    for part in parts:
        for file, image in zip(part.files, part.images):
            np.testing.assert_array_equal(read_image(tmp_path / "pets" / file, 6, False)[0], image)


def test_the_split_comes_from_the_seed_and_changes_the_checksum(tmp_path):
    class_folders(tmp_path)
    tests = [open_data(tmp_path, seed=seed, test_share=0.5)[1] for seed in (0, 0, 1)]
    assert tests[0].files == tests[1].files != tests[2].files
    assert data_sha256(tests[0]) == data_sha256(tests[1]) != data_sha256(tests[2])
    os.rename(tmp_path / "cat" / "00.png", tmp_path / "cat" / "000.png")
    renamed = open_data(tmp_path, seed=0, test_share=0.5)
    assert sorted(map(data_sha256, renamed)) != sorted(
        map(data_sha256, open_data(tmp_path, seed=1, test_share=0.5))
    )
    assert {"cat/000.png"} <= {file for part in renamed for file in part.files}


@pytest.mark.parametrize(
    "train_name, name", [("train", "test"), ("train", "val"), ("Train", "Test")]
)
def test_folders_that_are_split_already(tmp_path, train_name, name):
    class_folders(tmp_path / train_name, ("a", "b"), IMAGES[:14])
    class_folders(tmp_path / name, ("a", "b"), IMAGES[14:])
    train, test = open_data(tmp_path, size=6)
    assert joined([train]) == truth("ab", IMAGES[:14])
    assert joined([test]) == truth("ab", IMAGES[14:])
    with pytest.raises(DataError, match="has a test set of its own: leave out test_share"):
        open_data(tmp_path, test_share=0.1)
    save(tmp_path / name / "c" / "0.png", IMAGES[0])
    with pytest.raises(DataError, match="has c, but the classes of the training set are a, b"):
        open_data(tmp_path)


def test_a_test_folder_without_classes_is_not_used(tmp_path):
    class_folders(tmp_path / "Train", ("a", "b"))
    save(tmp_path / "Test" / "0.png", IMAGES[0])
    with pytest.warns(UserWarning, match="Test"):
        parts = open_data(tmp_path, size=6)
    assert joined(parts) == truth("ab") and len(parts[1]) == 4


def test_a_training_folder_without_classes_is_refused(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "0.png", IMAGES[0])
    with pytest.raises(DataError, match="train has no folders in it: put the pictures of each"):
        open_data(tmp_path)


def test_a_class_may_be_named_train(tmp_path):
    parts = open_data(class_folders(tmp_path, ("car", "train")), size=6)
    assert parts[0].classes == ("car", "train")


def test_colour_and_size(tmp_path):
    for i, image in enumerate(COLOURS):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", image.transpose(1, 2, 0))
    parts = open_data(tmp_path, size=6, colour=True)
    assert joined(parts) == truth("ab", COLOURS)
    train, _ = open_data(tmp_path, size=9)
    assert train.images.shape[1:] == train.preparation.shape == (1, 9, 9)


def test_formats_and_names_of_all_kinds(tmp_path):
    odd = ["a b", "$\\x$", "ü\n", "-rf", "日本"]
    for i, ending in enumerate((".png", ".BMP", ".gif", ".webp", ".tiff")):
        for k in range(3):
            save(tmp_path / odd[i] / f"{odd[k]} {i}{ending}", IMAGES[3 * i + k])
    train, test = open_data(tmp_path, size=6)
    assert train.classes == tuple(sorted(odd)) and len(train) + len(test) == 15


def test_files_that_are_not_pictures_are_named_and_left_out(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "dog" / ".DS_Store").write_text("x")
    with pytest.warns(UserWarning, match="2 files .* not pictures .*: notes.txt, .DS_Store"):
        assert joined(open_data(tmp_path, size=6)) == truth(("cat", "dog"))


def test_pictures_that_cannot_be_read(tmp_path):
    class_folders(tmp_path)
    content = (tmp_path / "cat" / "04.png").read_bytes()
    (tmp_path / "cat" / "04.png").write_bytes(content[:60])
    (tmp_path / "dog" / "03.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 20 pictures cannot be read, cat/04.png, dog/03.png"):
        open_data(tmp_path, size=6)
    with pytest.warns(UserWarning, match="left out: cat/04.png, dog/03.png"):
        parts = open_data(tmp_path, size=6, skip_bad=True)
    left = [i for i in range(20) if i not in (3, 4)]
    assert joined(parts) == truth(("cat", "dog"), IMAGES[left], LABELS[left])


@pytest.mark.parametrize("kind", ["file", "folder", "root"])
def test_links_that_lead_out_are_refused(tmp_path, kind):
    outside = class_folders(tmp_path / "outside")
    inside = class_folders(tmp_path / "inside")
    if kind == "root":  # which only says where the folder is
        (tmp_path / "link").symlink_to(inside)
        assert joined(open_data(tmp_path / "link", size=6)) == truth(("cat", "dog"))
        return
    target = outside / "cat" if kind == "folder" else outside / "cat" / "00.png"
    place = inside / "cow" if kind == "folder" else inside / "cat" / "x.png"
    place.symlink_to(target)
    with pytest.raises(DataError, match="leads out of the folder: replace it with a copy"):
        open_data(inside)


NO_FOLDERS = {
    "nothing": (lambda folder: None, "has 0 folders in it, expected one .* classes$"),
    "one class": (
        lambda folder: class_folders(folder, ("a",)),
        "has 1 folder in it, expected one .*; if the data are in a, give .*/a$",
    ),
    "one picture of each class": (
        lambda folder: [save(folder / name / "0.png", IMAGES[0]) for name in "ab"],
        "no class with two images: none is left to test with",
    ),
    "an empty class": (
        lambda folder: class_folders(folder) and (folder / "ant").mkdir(),
        "ant has no pictures in it: remove this folder",
    ),
    "a folder in a class": (
        lambda folder: class_folders(folder) and (folder / "cat" / "more").mkdir(),
        "folders in it, more: move their pictures up",
    ),
    "pickles": (
        lambda folder: (folder / "data_batch_1").write_bytes(b"\x80\x02."),
        "pickles, which can run any code and are never loaded: download its binary form",
    ),
    "two tables": (
        lambda folder: [(folder / f"{name}.csv").write_text("1,2\n") for name in "ab"],
        "holds a.csv, b.csv: give the path of one of them",
    ),
}


@pytest.mark.parametrize("make, sentence", NO_FOLDERS.values(), ids=NO_FOLDERS)
def test_folders_that_make_no_data_set(tmp_path, make, sentence):
    make(tmp_path)
    with pytest.raises(DataError, match=sentence) as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)


OTHERS = {
    "x.pkl": "a pickle can run any code and is never loaded",
    "x.pickle": "a pickle can run any code and is never loaded",
    "x.npy": "it holds one array",
    "x.mat": "use the IDX files",
    "x.zip": "unpack it",
    "x": "expected a folder",
    "train-labels-idx1-ubyte.gz": "it holds labels only: give its folder",
}


@pytest.mark.parametrize("name, remedy", OTHERS.items())
def test_other_files_are_refused_with_a_remedy(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"cannot be used: {remedy}"):
        open_data(tmp_path / name)
    with pytest.raises(DataError, match="does not exist: give a path, or one of fashion-mnist"):
        open_data(tmp_path / "none")


HEADERS = ["filename,label\n", "label,filename\n", "id,image,note,class\n", ""]


@pytest.mark.parametrize("header", HEADERS)
def test_pictures_listed_in_a_csv(tmp_path, header):
    rows = []
    for i, image in enumerate(IMAGES):
        save(tmp_path / "images" / f"{i}.png", image)
        file, label = f"images/{i}.png", (9, 10)[i % 2]
        row = {HEADERS[1]: (label, file), HEADERS[2]: (i, file, '"a, b"', label)}
        rows.append(",".join(map(str, row.get(header, (file, label)))) + "\n")
    (tmp_path / "labels.csv").write_text(header + "".join(rows))
    for path in tmp_path, tmp_path / "labels.csv":
        parts = open_data(path, size=6)
        assert joined(parts) == truth(("9", "10")) and parts[0].classes == ("9", "10")


NO_LISTS = {
    "../out.png,a\n": "leads out of the folder",
    "0.png,\n": "entry 3: expected the name of a file and a label",
    "0.png\n": "entry 3: expected the name of a file and a label",
    "1.png,a\n": "lists 1.png more than once",
    "none.png,a\n": "1 of 2 pictures cannot be read, none.png",
    '"0.png,a\n': "damaged: unexpected end of data",
}


@pytest.mark.parametrize("row, sentence", NO_LISTS.items())
def test_lists_that_are_refused(tmp_path, row, sentence):
    save(tmp_path / "own" / "1.png", IMAGES[0])
    save(tmp_path / "out.png", IMAGES[0])
    (tmp_path / "own" / "labels.csv").write_text("filename,label\n1.png,b\n" + row)
    with pytest.raises(DataError, match=sentence):
        open_data(tmp_path / "own")


def table(header, order=lambda label, pixels: (label, *pixels)):
    rows = [order(label, image.ravel()) for label, image in zip(LABELS + 3, IMAGES)]
    return header + "".join(",".join(map(str, row)) + "\n" for row in rows)


PIXELS = ",".join(f"pixel{i}" for i in range(36))
TABLES = {
    "Kaggle": table(f"label,{PIXELS}\n"),
    "no header": table(""),
    "label last, by the header": table(f"{PIXELS},Label\n", lambda k, pixels: (*pixels, k)),
    "quoted": table(f'"label","{PIXELS}"\n'.replace(",pixel", '","pixel')),
    "CRLF and a mark": "\ufeff" + table(f"label,{PIXELS}\r\n").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_pixels_in_a_csv(tmp_path, text, ending):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending == "csv.gz" else text.encode())
    parts = open_data(path)
    assert joined(parts) == truth("34") and parts[0].classes == ("3", "4")


def test_the_label_is_last_where_the_first_pixel_never_changes(tmp_path):
    images = IMAGES.copy()
    images[:, 0, 0] = 0
    rows = np.concatenate([images.reshape(20, 36), LABELS[:, None]], axis=1)
    np.savetxt(tmp_path / "x.csv", rows, fmt="%d", delimiter=",")
    assert joined(open_data(tmp_path / "x.csv")) == truth("01", images)


def test_a_test_table_counts_if_it_has_labels(tmp_path):
    (tmp_path / "The_Train.CSV").write_text(TABLES["Kaggle"])
    (tmp_path / "test.csv").write_text(TABLES["Kaggle"])
    train, test = open_data(tmp_path)
    assert joined([train]) == joined([test]) == truth("34")
    (tmp_path / "test.csv").write_text(f"{PIXELS}\n")
    with pytest.warns(UserWarning, match="test.csv has no labels and is not used"):
        train, test = open_data(tmp_path)
    assert (len(train), len(test)) == (16, 4)


ZEROS = 15 * ",0" + "\n"
NO_TABLES = {
    "1,2,3\n1,2\n": "is damaged after line 1",
    "1,2,3\n": "3 numbers in a line, expected a label and H",
    "1,x\n1,x\n": "is damaged after line 1",
    f"1,nan{ZEROS}2,3{ZEROS}": "not finite",
    f"1.5,3{ZEROS}2,3{ZEROS}": "labels that are not integers",
    f"1,3{ZEROS}1,3{ZEROS}": "one class only",
    "id,label\n1,2\n2,3\n": "a list of pictures must give the whole names of their files",
    "1" * 2_000_000: "too much text",
    "": "is empty",
}


@pytest.mark.parametrize("text, sentence", NO_TABLES.items(), ids=range(len(NO_TABLES)))
def test_tables_that_are_refused(tmp_path, text, sentence):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        open_data(tmp_path / "x.csv")


def test_a_small_gzip_file_cannot_take_much_memory(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"1,0\n" * (1 << 20), 1))
    with pytest.raises(DataError, match="too much text"):
        open_data(tmp_path / "x.csv.gz")


NAMES = {
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
    "numbered": ("arr_0", "arr_1", "arr_2", "arr_3"),
    "scikit-learn": ("data", "target"),
    "capital": ("X", "y"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_arrays_in_an_npz_file(tmp_path, names, save_as):
    arrays = (IMAGES[:14], LABELS[:14, None], IMAGES[14:], LABELS[14:])
    if len(names) == 2:
        arrays = (IMAGES, LABELS.astype(float))
    save_as(tmp_path / "x.npz", extra=np.array([None, "x"]), **dict(zip(names, arrays)))
    train, test = parts = open_data(tmp_path / "x.npz")
    assert joined(parts) == truth("01") and len(train) == (14 if len(names) == 4 else 16)
    assert joined(open_data(tmp_path)) == truth("01")


def test_one_npz_file_for_each_array_as_of_kmnist(tmp_path):
    for part, chosen in (("train", slice(14)), ("test", slice(14, None))):
        np.savez_compressed(tmp_path / f"kmnist-{part}-imgs.npz", IMAGES[chosen])
        np.savez_compressed(tmp_path / f"kmnist-{part}-labels.npz", LABELS[chosen])
    train, test = open_data(tmp_path)
    assert joined([train]) == truth("01", IMAGES[:14], LABELS[:14]) and len(test) == 6


X, PIXEL = IMAGES[:, None], IMAGES / 255
LAYOUTS = {
    "flat": (IMAGES.reshape(20, 36), X),
    "channels last": (COLOURS.transpose(0, 2, 3, 1), COLOURS),
    "channels first": (COLOURS, COLOURS),
    "one channel last": (IMAGES[..., None], X),
    "Fortran order": (np.asfortranarray(IMAGES), X),
    "floats to 1": (PIXEL.astype(np.float32), X),
    "floats to 255": (IMAGES.astype(float), X),
    "integers": (IMAGES.astype(">i8"), X),
    "bits": (IMAGES > 99, (X > 99) * np.uint8(255)),
    "around 0": (np.where(IMAGES > 99, 1.0, -1.0), (X > 99) * np.uint8(255)),
    "to 16": (IMAGES % 17, np.rint(X % 17 * (255 / 16)).astype(np.uint8)),
}


@pytest.mark.parametrize("given, expected", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_and_ranges_of_arrays(tmp_path, given, expected):
    np.savez(tmp_path / "x.npz", x=given, y=LABELS)
    assert joined(open_data(tmp_path / "x.npz")) == truth("01", expected)


NO_ARRAYS = {
    "objects": ({"x": np.array([{}, 1], object), "y": LABELS}, "pickles can run any code"),
    "no labels": ({"x": IMAGES}, "holds x: expected x_train"),
    "nothing": ({}, "holds no arrays: expected x_train"),
    "too few": ({"x": IMAGES, "y": LABELS[1:]}, r"labels \(19,\) for 20 images"),
    "no shape": ({"x": np.zeros((2, 3, 4, 5, 6)), "y": LABELS[:2]}, "expected .N, H, W."),
    "text": ({"x": IMAGES, "y": np.array(["a"] * 20)}, "expected numbers"),
    "not finite": ({"x": np.full((20, 2, 2), np.inf), "y": LABELS}, "not finite"),
    "far apart": (
        {"x": np.array([-1.7e308, 1.7e308] * 40).reshape(20, 2, 2), "y": LABELS},
        "apart",
    ),
    "a strange label": (
        {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS + 1},
        "label 2, which is none of 0, 1",
    ),
}


@pytest.mark.parametrize("arrays, sentence", NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_arrays_that_are_refused(tmp_path, arrays, sentence):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=sentence):
        open_data(tmp_path / "x.npz")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=IMAGES, y=LABELS)
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content.replace(b"(20, 6, 6)", b"(99999999)"))
    with pytest.raises(DataError, match="x.npz"):
        open_data(tmp_path / "x.npz")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_emnist_is_turned_upright_and_has_letters(tmp_path, ending):
    for split, shift, mapping in (("letters", 1, "1 65 97\n2 66 98\n"), ("mnist", 0, "")):
        start = tmp_path / f"emnist-{split}"
        for part, chosen in (("train", slice(14)), ("test", slice(14, None))):
            transposed = IMAGES[chosen].transpose(0, 2, 1)
            write_idx(tmp_path / f"{start}-{part}-images-idx3-ubyte{ending}", transposed)
            write_idx(
                tmp_path / f"{start}-{part}-labels-idx1-ubyte{ending}", LABELS[chosen] + shift
            )
        (tmp_path / f"{start}-mapping.txt").write_text(mapping or "0 48\n1 49\n")
    with pytest.raises(DataError, match="holds 2 data sets: give the path of the images of one"):
        open_data(tmp_path)
    train, test = parts = open_data(tmp_path / f"emnist-letters-train-images-idx3-ubyte{ending}")
    assert joined(parts) == truth(("A/a", "B/b")) and len(test) == 6
    assert train.name == "emnist-letters"
    parts = open_data(tmp_path / f"emnist-mnist-train-images-idx3-ubyte{ending}")
    assert joined(parts) == truth("01")


def test_qmnist_has_its_class_in_the_first_of_eight_labels(tmp_path):
    for part in ("train", "test"):
        labels = np.arange(160, dtype=np.int32).reshape(20, 8) - 9
        labels[:, 0] = LABELS
        write_idx(tmp_path / f"qmnist-{part}-images-idx3-ubyte", IMAGES)
        write_idx(tmp_path / f"qmnist-{part}-labels-idx2-int", labels)
    assert joined(open_data(tmp_path)[:1]) == truth("01")


def test_idx_files_under_the_names_of_mnist(tmp_path):
    write_idx(tmp_path / "train-images.idx3-ubyte", IMAGES)
    with pytest.raises(DataError, match="has no labels beside it"):
        open_data(tmp_path)
    write_idx(tmp_path / "train-labels.idx1-ubyte", LABELS[:19])
    with pytest.raises(DataError, match=r"labels \(19,\) for 20 images, expected \(20,\)"):
        open_data(tmp_path)
    write_idx(tmp_path / "train-labels.idx1-ubyte", LABELS)
    assert joined(open_data(tmp_path)) == truth("01")
    assert open_data(tmp_path / "train-images.idx3-ubyte")[0].name == tmp_path.name


@pytest.mark.parametrize("classes, coarse", [(10, b""), (100, b"\7")])
def test_cifar(tmp_path, classes, coarse):
    images = RNG.integers(256, size=(20, 3, 32, 32), dtype=np.uint8)
    records = [coarse + bytes([k]) + x.tobytes() for k, x in zip(LABELS + 8, images)]
    files = ("train.bin", "test.bin") if coarse else ("data_batch_1.bin", "test_batch.bin")
    for file, part in zip(files, (records[:14], records[14:])):
        (tmp_path / file).write_bytes(b"".join(part))
    parts = open_data(tmp_path)
    assert joined(parts) == truth("0123456789", images, LABELS + 8)
    assert (len(parts[1]), parts[0].preparation.colour) == (6, True)
    names = [f"name {k}" for k in range(classes)]
    place = tmp_path / ("fine_label_names.txt" if coarse else "batches.meta.txt")
    place.write_text("\n".join(names) + "\n\n")
    assert open_data(tmp_path)[0].classes == tuple(names)
    assert open_data(tmp_path, colour=False, size=16)[0].images.shape == (14, 1, 16, 16)
    place.write_text("one\n")
    with pytest.raises(DataError, match=f"names 1 classes, expected {classes}"):
        open_data(tmp_path)
    place.unlink()
    for content, sentence in (
        (records[0][:-1], "expected whole records"),
        (b"", "expected whole records"),
        (coarse + b"\xff" + records[0][1 + len(coarse) :], "record 0 has label 255"),
    ):
        (tmp_path / files[1]).write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            open_data(tmp_path)


def test_what_was_decoded_is_kept_until_the_files_change(tmp_path, entries, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 0)
    class_folders(tmp_path)
    first = open_data(tmp_path, size=6)
    (entry,) = entries.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("minicnn.datasets.pictures.picture", None)  # would raise TypeError
        assert joined(open_data(tmp_path, size=6)) == joined(first)
    entry.write_bytes(entry.read_bytes()[:-9])
    assert joined(open_data(tmp_path, size=6)) == joined(first)
    save(tmp_path / "cat" / "00.png", 255 - IMAGES[0])
    assert (255 - IMAGES[0]).tobytes() in joined(open_data(tmp_path, size=6))
    open_data(tmp_path, size=7)
    assert len(list(entries.iterdir())) == 3
    total = sum(kept.stat().st_size for kept in entries.iterdir())
    monkeypatch.setattr(cache, "LIMIT", total)
    open_data(tmp_path, size=5)  # takes less than the oldest, which goes
    assert len(list(entries.iterdir())) == 3 and not entry.exists()


def test_without_a_place_for_the_cache_all_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 0)
    class_folders(tmp_path / "pets")
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "file" / "cache")
    assert joined(open_data(tmp_path / "pets", size=6)) == truth(("cat", "dog"))


def test_a_spec_finds_the_same_data_again(tmp_path, monkeypatch):
    class_folders(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    spec = DataSpec("pets", size=6, test_share=0.5, seed=3)
    assert spec.source == str(tmp_path / "pets")
    monkeypatch.chdir("/")
    assert data_sha256(spec.load()[1]) == data_sha256(
        open_data(tmp_path / "pets", size=6, test_share=0.5, seed=3)[1]
    )
    with pytest.raises(ValueError, match="mnist is used as it is: leave out size"):
        DataSpec("mnist", size=3)


def test_data_that_were_not_made_for_us(tmp_path):
    found = importlib.util.find_spec("sklearn")  # importing it would load another BLAS
    if found is None:
        pytest.skip("needs the digits of scikit-learn")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    *pixels, target = np.loadtxt(path, delimiter=",", unpack=True)
    rows = np.stack(pixels, axis=1)
    np.savez(tmp_path / "x.npz", data=rows, target=target.astype(int))
    for i, (image, label) in enumerate(zip(rows.reshape(-1, 8, 8), target.astype(int))):
        save(tmp_path / "folders" / str(label) / f"{i}.png", np.rint(image * 255 / 16).astype("u1"))
    of_arrays, of_pictures = open_data(tmp_path / "x.npz"), open_data(tmp_path / "folders", size=8)
    assert joined(of_arrays) == joined(of_pictures)
    assert sum(map(len, of_arrays)) == 1797


def test_inverted_files_tell_how_a_new_picture_is_read(tmp_path):
    """A picture is inverted as those of the training set were; for arrays, which may be of MNIST's
    kind, a new picture is judged by its border as before."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (6, 8, 8)).astype(np.uint8), np.arange(6) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y)
    for image, label, k in zip(x, y, range(6)):
        (tmp_path / "pictures" / f"{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "pictures" / f"{label}" / f"{k}.png")
    for path, of_new in {"x.npz": None, "pictures": True}.items():
        parts = open_data(tmp_path / path, size=8, invert=True)
        assert {bytes(image) for part in parts for image in part.images} == set(map(bytes, 255 - x))
        assert parts[0].preparation.invert is of_new
