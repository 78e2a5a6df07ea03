"""The short forms of faults.py: a few kills, and a little damage to each kind of file."""

import os

import pytest
from faults import corruptions, kills

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.mark.slow
def test_training_that_is_killed_and_resumed_ends_as_if_it_had_not_been():
    assert kills(8).startswith("8 kills, ")


@pytest.mark.slow
def test_damaged_files_are_refused_or_harmless():
    assert len(corruptions(int(os.environ.get("MINICNN_FAULTS", 40)))) == 21
