"""10_what_lenet_sees counts right, and its activations are those of the definition."""

import dataclasses
import importlib

import numpy as np
import pytest
from PIL import Image
from rounding import assert_equal_but_for_rounding

from minicnn import corr2d_multi_in_out, digits, evaluate, lenet_relu, pool2d
from minicnn.runs.checkpoint import save_weights
from minicnn.runs.run_folder import new_run
from minicnn.runs.settings import Origin

NAME = "10_what_lenet_sees"
PICTURES = {"activations_first", "activations_second", "filters_second"}
PICTURES |= {"confusion_matrix", "confident_mistakes"}


def printed_matrix(text, words):
    return np.array(
        [row.strip(" []").split() for row in text.split(words)[1].split("]]")[0].splitlines()[1:]],
        float,
    )


@pytest.mark.usefixtures("run_example")
def test_trains_a_network_quickly(capsys):
    """Its loss falls, by a momentum of 0.9 over 3 epochs of 24 steps."""
    net = importlib.import_module(NAME).train_quickly(digits()[0][:3000])
    text = capsys.readouterr().out
    assert text.startswith("training lenet-relu for 3 epochs, about ")
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in text.splitlines()[1:]]
    assert len(losses) == 3 and losses[2] < losses[0]
    assert evaluate(net, digits()[1])[1] > 0.2


def test_draws_a_run_and_counts_its_mistakes(run_example, tmp_path):
    """The run is of a network that learnt nothing; here, one image after the other."""
    _, test_set = digits()
    test_set = test_set[:60]
    origin = Origin("lenet-relu", "digits", test_set.classes)
    folder = new_run(tmp_path / "run", origin)
    net = lenet_relu(np.random.default_rng(5))
    save_weights(net, folder / "weights.safetensors", dataclasses.asdict(origin))

    text = run_example(NAME, "--run", folder, "--images", 60)
    counts, certainty = np.zeros((10, 10)), {}
    for i, label in enumerate(test_set.labels):
        x, _ = test_set.batch(np.array([i]), np.float64)
        (logits,) = net.astype(np.float64)(x)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        counts[label, probabilities.argmax()] += 1
        if probabilities.argmax() != label:
            line = f"image {i:4}: {label}, taken for {probabilities.argmax()} with probability "
            certainty[line] = probabilities.max()
    assert f"{np.trace(counts):.0f} of 60 test images are right" in text
    np.testing.assert_array_equal(printed_matrix(text, "true class by predicted:"), counts)
    wrong = counts * (1 - np.eye(10))
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    assert f"mistake: {wrong.max():.0f} times {true} was taken for {predicted}\n" in text
    worst = sorted(certainty.items(), key=lambda item: -item[1])[:18]
    lines = [f"{line}{probability:.3f}" for line, probability in worst]
    printed = text.split("most confident mistakes\n")[1].splitlines()
    assert sorted(printed[: len(lines)]) == sorted(lines)
    table = [line.split()[-4:] for line in text.splitlines()[-3:]]
    assert [line.split("  ")[0] for line in text.splitlines()[-3:]] == [
        "test images of digits",
        "noise",
        "a portrait",
    ]
    logits = net.astype(np.float64)(test_set.batch(slice(None), np.float64)[0])
    exponentials = np.exp(logits)
    mean = (exponentials.max(axis=1) / exponentials.sum(axis=1)).mean()
    assert float(table[0][3]) == pytest.approx(mean, abs=0.0051)
    assert table[0][2] == str(np.bincount(logits.argmax(axis=1)).argmax())
    assert all(float(number) > 0 for row in table for number in row[:2])

    assert "60 images of digits to train, 60 to test\n" in text
    assert "over all 4s, over all 9s" in text
    pictures = {path.stem.removeprefix("10_"): path for path in tmp_path.glob("*.png")}
    assert pictures.keys() == PICTURES
    for path in pictures.values():
        with Image.open(path) as picture:
            assert 900 < picture.width < 1100 and len(np.unique(picture)) > 50


def test_a_run_on_unknown_data_is_told(run_example, tmp_path):
    origin = Origin("lenet-relu", "flowers", tuple("abcdefghij"))
    folder = new_run(tmp_path / "run", origin)
    save_weights(lenet_relu(), folder / "weights.safetensors", dataclasses.asdict(origin))
    with pytest.raises(ValueError, match="used 'flowers': choose fashion-mnist, mnist, digits"):
        run_example(NAME, "--run", folder)


@pytest.mark.usefixtures("run_example")
def test_activations_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    net = lenet_relu(rng).astype(np.float64)
    x = rng.random((1, 1, 28, 28))
    first, second = importlib.import_module(NAME).activations(net, x)

    def by_definition(net):
        padded = np.pad(x[0], ((0, 0), (2, 2), (2, 2)))
        first = corr2d_multi_in_out(padded, net.params["0.weight"])
        first = np.maximum(first + net.params["0.bias"][:, None, None], 0)
        pooled = np.stack([pool2d(image, (2, 2), "max")[::2, ::2] for image in first])
        second = corr2d_multi_in_out(pooled, net.params["3.weight"])
        return first, np.maximum(second + net.params["3.bias"][:, None, None], 0)

    # x is positive, so that weights without signs give the sums of the absolute values
    sizes = by_definition(net.map_arrays(np.abs))
    for result, exact, size in zip((first, second), by_definition(net), sizes, strict=True):
        assert_equal_but_for_rounding(result[0], exact, size)
