"""Memory of batches is used again, and never while an array refers to it."""

import numpy as np
import torch

from declip_pipeline.store.buffers import MOST_IDLE, MOST_IDLE_BYTES, SMALLEST, Buffers

SHAPE = (4, SMALLEST // 4)


def test_memory_is_used_again_once_no_view_is_left():
    buffers = Buffers()
    first = buffers.empty(SHAPE, "float16")
    place = first.ctypes.data
    view = first[:, :1]
    del first
    second = buffers.empty(SHAPE, "float16")
    assert second.ctypes.data != place
    del view
    assert buffers.empty(SHAPE, "float16").ctypes.data == place


def test_a_tensor_keeps_its_memory():
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.empty(SHAPE, "float32"))
    part = tensor[2:].view(-1)
    part.fill_(7)
    del tensor
    for _ in range(3):
        buffers.empty(SHAPE, "float32").fill(1)
    assert bool((part == 7).all())


def test_shape_and_dtype_are_those_asked_for():
    for shape, dtype in [((0, 3), "float16"), ((2, 3), "bool"), ((3, SMALLEST), "int8")]:
        array = Buffers().empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_idle_memory_is_bounded():
    buffers = Buffers()
    arrays = [buffers.empty(SHAPE, "int8") for _ in range(3 * MOST_IDLE)]
    del arrays
    assert buffers.idle_bytes == MOST_IDLE * SMALLEST
    buffers.empty((MOST_IDLE_BYTES + 1,), "int8")
    assert buffers.idle_bytes <= MOST_IDLE_BYTES
