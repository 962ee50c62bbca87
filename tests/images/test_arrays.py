"""Files of arrays from anywhere: no pickles, no more bytes than a header says."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from declip_pipeline.errors import ImageError
from declip_pipeline.images.arrays import ArrayFile


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header_of(shape, dtype="<f4"):
    """A header of 128 bytes that promises an array of a shape."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">u2").reshape(2, 3)),
        np.eye(3, dtype=bool),
        np.float64(0.25),
        np.zeros((0, 3), np.int8),
    ],
)
def test_arrays_are_read_as_numpy_saved_them(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "plain.npz", a=array)
    np.savez_compressed(tmp_path / "small.npz", a=array, other=np.arange(3))
    for name, key in (("a.npy", ""), ("plain.npz", "a"), ("small.npz", "a")):
        file = ArrayFile(tmp_path / name)
        found = file.read(key)
        assert found.dtype == array.dtype and file.headers[key].shape == array.shape
        np.testing.assert_array_equal(found, array)


def test_objects_are_refused_and_not_unpickled(tmp_path):
    class Loud:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    path = tmp_path / "a.npy"
    path.write_bytes(header_of((1,), "|O") + pickle.dumps(Loud()))
    with pytest.raises(ImageError, match="holds an array of object; numbers expected"):
        ArrayFile(path)
    archive(tmp_path / "a.npz", map=path.read_bytes())
    with pytest.raises(ImageError, match="holds an array of object"):
        ArrayFile(tmp_path / "a.npz")


def test_no_more_is_read_than_the_header_says(tmp_path):
    content = header_of((2, 2)) + bytes(16)
    path = archive(tmp_path / "bomb.npz", map=content + bytes(50_000_000))
    assert path.stat().st_size < 100_000
    file = ArrayFile(path)
    assert file.headers["map"].bytes == 16
    with pytest.raises(ImageError, match="is damaged: its header says 16 bytes, more follow"):
        file.read("map")


def test_a_header_that_promises_more_than_there_is(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(header_of((1000, 1000)) + bytes(16))
    assert ArrayFile(path).headers[""].bytes == 4_000_000
    with pytest.raises(ImageError, match="is truncated: its header says 4000000 bytes, 16 follow"):
        ArrayFile(path).read("")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an array that NumPy saved"),
        (b"\x89PNG\r\n\x1a\n", "is not an array that NumPy saved"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "an array's header of 2147483648 bytes"),
        (b"\x93NUMPY\x01\x00\x76", "is damaged"),
        (header_of((2, -2)), "an array of shape"),
        (header_of((2, 2), "<U8"), "holds an array of <U8; numbers expected"),
        (header_of("__import__('os')"), "is damaged"),
    ],
)
def test_damaged_files_are_refused_in_a_line(tmp_path, content, message):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as found:
        ArrayFile(path)
    assert "\n" not in str(found.value)


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ImageError, match="is damaged"):
        ArrayFile(path)
    np.savez(path, map=np.ones((50, 50)))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"is damaged \(Bad CRC"):
        ArrayFile(path).read("map")
    archive(path, **{f"a{number}": npy(np.ones(1)) for number in range(65)})
    with pytest.raises(ImageError, match="holds 65 arrays; at most 64 are read"):
        ArrayFile(path)
    with pytest.raises(ImageError, match="cannot be opened: No such file"):
        ArrayFile(tmp_path / "none.npy")
