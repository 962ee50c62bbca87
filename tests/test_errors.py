"""Errors survive the way between processes."""

import pickle

from declip_pipeline.errors import UnknownNameError


def test_an_error_is_pickled_with_its_message():
    error = UnknownNameError("layer", "layer99", ["layer0", "layer1"])
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is UnknownNameError
    assert str(back) == str(error)
