"""What the bounds of rounding.py let pass and what they catch, on the sums of the layers."""

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding, network_size
from test_layers import CASES, expected

from minicnn import Linear, Sequential

FAULT = 1e-4  # as a share of one entry


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in CASES if "no images" not in name])
def test_a_wrong_entry_is_no_rounding(name, dtype):
    """In float64 any that is not 0; in float32 any that has not cancelled to 1/100 of its size."""
    *_, results, size = expected(name)
    for key, exact in results.items():
        right = exact.astype(dtype)
        assert_equal_but_for_rounding(right, exact, size[key])
        share = np.abs(exact) / np.maximum(size[key], np.finfo(float).tiny)
        found = np.flatnonzero(share > (1e-2 if dtype == np.float32 else 0))
        for at in np.random.default_rng(0).permutation(found)[:20]:
            wrong = right.copy()
            wrong.flat[at] *= 1 + FAULT
            with pytest.raises(AssertionError, match="is off"):
                assert_equal_but_for_rounding(wrong, exact, size[key])


@pytest.mark.parametrize("wrong", [[1.0, np.nan], [1.0, np.inf], [1.0], [[1.0, 2.0]]])
def test_what_is_no_number_or_of_another_shape_is_caught(wrong):
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding(np.array(wrong), np.array([1.0, 2.0]), 1)


def test_the_size_of_a_network_is_that_of_its_products():
    """Of one product, w*x: both the share of its change and itself."""
    net = Sequential(Linear(1, 1, bias=False)).astype(np.float64)
    net.params["0.weight"][...] = -3
    size = network_size(lambda net: {"y": net(np.array([[5.0]]))}, net)
    assert size["y"] == pytest.approx(15 + 15, rel=1e-6)
