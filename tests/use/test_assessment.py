"""The report: its numbers by hand and by loops over the definitions, and its page."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from minicnn.datasets import Dataset
from minicnn.use.assessment import assess
from minicnn.use.report import page


def test_five_images_by_hand():
    """Labels a a a b b, predictions a a b b a."""
    rows = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [1, 0]]
    found = assess(np.array(rows), np.array([0, 0, 0, 1, 1]), ("a", "b"))
    assert found.counts.tolist() == [[2, 1], [1, 1]]
    assert found.recall.tolist() == [2 / 3, 1 / 2]
    assert found.precision.tolist() == [2 / 3, 1 / 2]
    np.testing.assert_allclose(found.f1, [2 / 3, 1 / 2])
    assert found.accuracy == 0.6
    # one in each of the bins from 0.6, 0.7 and 0.8, two in the last: one of them right
    expected = (abs(1 - 0.6) + abs(0 - 0.7) + abs(1 - 0.8) + 2 * abs(0.5 - 0.95)) / 5
    assert found.ece == pytest.approx(expected, rel=1e-12)
    assert found.mistakes == ((4, 1, 0, 1.0), (2, 0, 1, 0.7))


def test_a_class_without_images_or_predictions_has_zeros():
    found = assess(np.array([[1.0, 0, 0]]), np.array([1]), ("a", "b", "c"))
    for values in (found.recall, found.precision, found.f1):
        assert values.tolist() == [0, 0, 0]
    assert np.isfinite(found.loss)


def test_against_loops():
    rng = np.random.default_rng(3)
    k, n = 4, 300
    shares = rng.dirichlet([0.5] * k, n)
    labels = np.array([rng.choice(k, p=row) for row in shares])
    found = assess(shares, labels, tuple("abcd"), worst=5)
    guesses = [max(range(k), key=lambda j: row[j]) for row in shares]
    pairs = list(zip(labels.tolist(), guesses))
    for c in range(k):
        true = sum(pair == (c, c) for pair in pairs)
        recall = true / sum(label == c for label, _ in pairs)
        precision = true / sum(guess == c for _, guess in pairs)
        assert found.recall[c] == pytest.approx(recall)
        assert found.precision[c] == pytest.approx(precision)
        assert found.f1[c] == pytest.approx(2 / (1 / recall + 1 / precision))
        for other in range(k):
            assert found.counts[c, other] == pairs.count((c, other))
    error = 0.0
    for low in np.arange(10) / 10:
        inside = [
            i
            for i in range(n)
            if low <= max(shares[i]) < low + 0.1 or low == 0.9 and max(shares[i]) == 1
        ]
        if inside:
            right = sum(pairs[i][0] == pairs[i][1] for i in inside) / len(inside)
            error += (
                len(inside) / n * abs(right - sum(max(shares[i]) for i in inside) / len(inside))
            )
    assert found.ece == pytest.approx(error)
    assert found.loss == pytest.approx(-sum(np.log(shares[i][labels[i]]) for i in range(n)) / n)
    surest = sorted((-max(shares[i]), i) for i in range(n) if pairs[i][0] != pairs[i][1])[:5]
    assert [mistake[0] for mistake in found.mistakes] == [i for _, i in surest]


def test_predictions_that_do_not_fit_are_refused():
    for shape, labels in (((0, 2), []), ((2, 3), [0, 1]), ((3, 2), [0, 1])):
        with pytest.raises(ValueError, match=r"^expected probabilities \(N, K\) for N labels"):
            assess(np.ones(shape), np.array(labels, int), ("a", "b"))


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_page_is_one_file_whose_names_are_text(channels):
    odd = '<script>"\udce9&'
    data = Dataset(
        np.zeros((2, channels, 4, 5), np.uint8), np.array([0, 1]), (odd, "b"), odd, files=(odd, "x")
    )
    found = assess(np.array([[0.1, 0.9], [0.2, 0.8]]), data.labels, data.classes)
    html = page(found, data, odd)
    html.encode()
    seen = Seen()
    seen.feed(html)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in seen.tags}
    images = [attrs for tag, attrs in seen.tags if tag == "img"]
    assert [attrs["alt"] for attrs in images] == [
        '<script>"\\udce9&: <script>"\\udce9&, taken for b, 90.0%'
    ]
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in images)
    assert not re.search(r"https?:|url\(|@import", html)
    assert json.loads(json.dumps(found.to_dict()))["worst_mistakes"][0]["label"] == odd
