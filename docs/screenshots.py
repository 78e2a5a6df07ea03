"""Takes the pictures of the explainer's page: python docs/screenshots.py

They need the extra `browser`, and Chromium at /usr/bin/chromium or where MINICNN_BROWSER says.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from minicnn import SGD, Conv2D, fashion_mnist, lenet
from minicnn.datasets import as_input
from minicnn.explain import explain, trace
from minicnn.gradcheck.museum import ConvCropped

FIGURES = Path(__file__).parent / "figures"
BROWSER = os.environ.get("MINICNN_BROWSER", "/usr/bin/chromium")
WIDE, PHONE = {"width": 1180, "height": 900}, {"width": 360, "height": 720}


def strided():
    """A convolution with stride 2, in small whole numbers."""
    rng = np.random.default_rng(0)
    layer = Conv2D(1, 1, 3, stride=2, padding=1)
    layer.params["weight"][...] = rng.integers(-2, 3, (1, 1, 3, 3))
    return explain(layer, rng.integers(0, 5, (1, 1, 5, 6)).astype(np.float32))


def image():
    """An image of Fashion-MNIST on its way through LeNet, before training."""
    _, test = fashion_mnist()
    net, labels = lenet(np.random.default_rng(0)), test.labels[:1].astype(int)
    return explain(net, as_input(test.images[:1]), labels=labels, title="LeNet, not trained")


def step():
    """The first step of training LeNet."""
    train, _ = fashion_mnist()
    net, (x, labels) = lenet(np.random.default_rng(0)), train.batch(slice(256))
    traced, title = trace(net, x, labels, SGD(0.9)), "LeNet, the first step"
    return explain(net, x[:1], labels=labels[:1], title=title, trace=traced)


def wrong():
    """A mistake of the museum."""
    rng = np.random.default_rng(0)
    layer = ConvCropped(1, 1, 3, padding=1)
    layer.params["weight"][...] = rng.integers(-2, 3, (1, 1, 3, 3))
    return explain(layer, rng.integers(0, 5, (1, 1, 5, 5)).astype(np.float32))


# name of the picture: what is explained, the screen, and the step and cell that is opened, if any
PICTURES = {
    "explain_stride": (strided, WIDE, 0, "dx", [0, 0, 1, 2]),
    "explain_lenet": (image, WIDE, 3, "dx", [0, 2, 5, 6]),
    "explain_wrong": (wrong, WIDE, 0, "dx", [0, 0, 2, 2]),
    "explain_phone": (strided, PHONE, 0, "dx", [0, 0, 1, 2]),
    "trace": (step, WIDE, 0, None, None),
}


def main():
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for name, (make, screen, step, array, index) in PICTURES.items():
            path = Path(folder) / f"{name}.html"
            make().save(path)
            page = browser.new_page(viewport=screen, locale="en", is_mobile=screen is PHONE)
            page.goto(path.as_uri())
            if array:
                page.evaluate(f"open({step}, {{array: '{array}', index: {index}}})")
            page.wait_for_timeout(2000)  # until all steps are checked
            page.screenshot(path=FIGURES / f"{name}.png")
            print(FIGURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
