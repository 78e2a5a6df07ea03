"""04_padding_and_stride prints the course's shapes, and counts windows as loops do."""

import numpy as np
from PIL import Image

SHAPES = {
    "kernel_size 3, padding 1": (8, 8),
    "kernel_size (5, 3), padding (2, 1)": (8, 8),
    "kernel_size 3, padding 1, stride 2": (4, 4),
    "kernel_size (3, 5), padding (0, 1), stride (3, 4)": (2, 2),
    "kernel_size 3, stride 2": (3, 3),
}


def test_prints_and_draws(run_example, tmp_path):
    text = run_example("04_padding_and_stride")

    for geometry, size in SHAPES.items():
        assert f"{geometry:50}{size}  {size}  {size}\n" in text

    padded = "[[ 0  3  8  4]\n [ 9 19 25 10]\n [21 37 43 16]\n [ 6  7  8  0]]"
    assert f"padding 1:\n{padded}\n" in text
    assert "every second column of these:\n[[0 8]\n [6 8]]" in text

    counts = np.zeros((8, 8), int)
    for i in range(0, 6, 2):
        for j in range(0, 6, 2):
            counts[i : i + 3, j : j + 3] += 1
    assert f"How many windows read each pixel:\n{counts}\n" in text

    for kernel, stride in ((3, 1), (3, 2), (3, 3), (5, 4), (2, 3)):
        read = {start + i for start in range(0, 9 - kernel, stride) for i in range(kernel)}
        rows = " ".join(str(row) for row in range(8) if row not in read)
        expected = f"kernel {kernel}, stride {stride}: rows in no window [{rows}], at the end "
        assert f"{expected}(8 - {kernel}) mod {stride} = {7 - max(read)}\n" in text

    assert "kernel 3: total padding 2 gives 8, 4 gives 10\n" in text
    assert "kernel 4: total padding 2 gives 7, 4 gives 9\n" in text
    assert "kernel 5: total padding 2 gives 6, 4 gives 8\n" in text
    assert "For kernel 4, np.pad with 2 before and 1 after gives 8." in text
    assert "32 x 32: 7 layers, then 4 x 4" in text
    assert "224 x 224: 55 layers, then 4 x 4" in text

    image = np.asarray(Image.open(tmp_path / "04_windows.png").convert("RGB")).astype(int)
    assert image.shape[1] == 1080
    for colour in ((253, 174, 107), (224, 224, 224)):  # what no window reads, and padding
        assert (np.abs(image - colour).max(axis=2) < 3).sum() > 5000
