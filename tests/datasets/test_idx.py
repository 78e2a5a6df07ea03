"""IDX files: good ones are read exactly, and each kind of bad one gets its own sentence."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from minicnn.datasets import DataError, read_idx

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
HEADER = bytes.fromhex("00000803 00000002 00000003 00000004")
IDX = HEADER + bytes(range(24))
GZIPPED = gzip.compress(IDX)
PAGE = b"\n <!DOCTYPE html><title>Sign in</title>"


def header_of(size):
    return struct.pack(">4BI", 0, 0, 8, 1, size)


@pytest.mark.parametrize("content", [IDX, GZIPPED], ids=["plain", "gzipped"])
@pytest.mark.parametrize("name", ["values", "values.gz"])
def test_reads_values_by_content_and_not_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    array = read_idx(path, shape=(2, 3, 4), max_bytes=24)
    np.testing.assert_array_equal(array, VALUES, strict=True)
    array[0] = 0  # a user's own, to write into


BAD = {
    "empty": (b"", "is empty"),
    "html": (PAGE, "looks like an HTML page: the download was probably redirected; delete it and"),
    "gzipped html": (gzip.compress(PAGE), "looks like an HTML page"),
    "html after a byte order mark": (b"\xef\xbb\xbf<html>", "looks like an HTML page"),
    "png": (b"\x89PNG\r\n\x1a\n", "not an IDX file: it starts with 89 50 4e 47"),
    "two bytes": (b"\0\0", "not an IDX file: it starts with 00 00,"),
    "float32": (b"\0\0\x0d" + IDX[3:], "type 0x0d, expected unsigned bytes, 0x08"),
    "no dimensions": (bytes.fromhex("00000800 07"), "claims 0 dimensions"),
    "65 dimensions": (bytes.fromhex("00000841") + 65 * bytes.fromhex("00000001"), "claims 65"),
    "zero dimension": (bytes.fromhex("00000802 00000005 00000000"), "claims 5 x 0 values"),
    "cut header": (IDX[:13], "header has 13 bytes, expected 16"),
    "cut values": (IDX[:-1], "promises 2 x 3 x 4 = 24 bytes, found 23"),
    "cut values, gzipped again": (gzip.compress(IDX[:-1]), "= 24 bytes, found 23"),
    "trailing bytes": (IDX + b"\0", "= 24 bytes, found more"),
    "trailing bytes, gzipped": (gzip.compress(IDX + b"\0"), "= 24 bytes, found more"),
    "a byte after a megabyte": (header_of(2**20) + bytes(2**20 + 1), "bytes, found more"),
    "cut gzip": (GZIPPED[:-12], "damaged gzip file"),
    "cut gzip checksum": (GZIPPED[:-1], "damaged gzip file"),
    "wrong gzip checksum": (GZIPPED[:-8] + b"\0" * 4 + GZIPPED[-4:], "damaged gzip file"),
    "wrong gzip method": (GZIPPED[:2] + b"\x07" + GZIPPED[3:], "damaged gzip file"),
    "broken gzip data": (GZIPPED[:10] + b"\xff" * 20 + GZIPPED[30:], "damaged gzip file"),
    "trailing bytes after gzip": (GZIPPED + b"page", "damaged gzip file"),
}


@pytest.mark.parametrize("content, sentence", BAD.values(), ids=BAD.keys())
def test_a_bad_file_gets_one_clear_sentence(tmp_path, content, sentence):
    path = tmp_path / "values.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(path)
    message = str(error.value)
    assert message.startswith(f"{path} ")
    assert sentence in message
    assert (
        "delete it and download it again" in message or "replace it with the right file" in message
    )
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="none cannot be read: No such file"):
        read_idx(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_idx(tmp_path)


def test_another_shape_or_more_than_the_caller_allows_is_refused(tmp_path):
    path = tmp_path / "values"
    path.write_bytes(IDX)
    with pytest.raises(DataError, match="holds 2 x 3 x 4 values, expected 2 x 4 x 4: replace it"):
        read_idx(path, shape=(2, 4, 4))
    with pytest.raises(DataError, match="claims 2 x 3 x 4 values, expected at most 23"):
        read_idx(path, max_bytes=23)


LIES = {
    "claims 4 GiB": (header_of(2**32 - 1), "at most 1,073,741,824"),
    "claims 1 GiB": (header_of(2**30) + b"few", "found 3;"),
    "claims 1 GiB, gzipped": (gzip.compress(header_of(2**30) + b"few"), "found 3;"),
    "holds 64 MiB": (gzip.compress(header_of(10) + bytes(2**26), 1), "= 10 bytes, found more"),
}


@pytest.mark.parametrize("content, sentence", LIES.values(), ids=LIES.keys())
def test_a_lie_about_the_size_costs_no_memory(tmp_path, content, sentence):
    path = tmp_path / "values"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=sentence):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
