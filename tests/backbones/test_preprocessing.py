import json

import pytest

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.errors import UnknownNameError


def test_survives_json_text() -> None:
    value = Preprocessing(224, 336, "bicubic", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert Preprocessing.from_json(json.loads(json.dumps(value.to_json()))) == value


def test_unknown_interpolation() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown interpolation 'cubic'; .*known: bilinear"):
        Preprocessing(1, 1, "cubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
