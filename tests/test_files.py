"""`folder_name` returns one level of a path, at most 100 bytes long."""

import pytest

from declip_pipeline.files import folder_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CLIP:ViT-L/14,RN50", "CLIP-ViT-L-14-RN50"),
        ("lama+ldm", "lama+ldm"),
        ("../esc", "..-esc"),
        ("[/x]", "x"),
        ("Bücher", "Bücher"),
        ("", "unnamed"),
        ("..", "unnamed"),
        ("///", "unnamed"),
        ("x" * 300, "x" * 100),
        ("字" * 300, "字" * 33),
    ],
)
def test_a_name_is_one_level_and_short(text, name):
    assert folder_name(text) == name
    assert len(name.encode()) <= 100
