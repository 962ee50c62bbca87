"""`export --onnx`, as a user runs it."""

import json

import onnx
import pytest

from declip_pipeline.exchange import onnx as onnx_export


@pytest.mark.slow
def test_a_run_becomes_a_file_that_was_checked(program, refused, tiny_run, golden, tmp_path):
    file = tmp_path / "tiny.onnx"
    picture = golden / "images" / "chelsea.png"
    outcome = program("export", tiny_run, "--onnx", file, "--check-on", picture)
    assert (outcome.code, outcome.last_line) == (0, str(file)), outcome.err
    assert "onnxruntime and torch differ by at most " in outcome.err
    assert "in a probability, on 1 images" in outcome.err
    metadata = {one.key: one.value for one in onnx.load(file).metadata_props}
    about = json.loads(metadata["declip_pipe"])
    assert about["decoder_type"] == "conv-4"
    assert about["features"]["layer"] == "layer1"
    assert about["preprocessing"]["interpolation"] == "bilinear"
    text = refused("export", tiny_run, "--onnx", file, code=1)
    assert text == f"{file} is there already; --overwrite replaces it"


def test_one_that_differs_is_refused_and_not_left(refused, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_write_graph", lambda path, *others: path.touch())
    monkeypatch.setattr(onnx_export, "_largest_difference", lambda *others: 0.5)
    file = tmp_path / "tiny.onnx"
    text = refused("export", tiny_run, "--onnx", file, code=1)
    assert "onnxruntime differs from torch by up to 0.5 in" in text
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_bad_pictures_are_named(refused, tiny_run, tmp_path, monkeypatch):
    file, note = tmp_path / "tiny.onnx", tmp_path / "note.png"
    note.write_text("not an image")
    text = refused("export", tiny_run, "--onnx", file, "--check-on", note)
    assert text.startswith(f"{note}: ")
    assert text.endswith("; name another image with --check-on")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    text = refused("export", tiny_run, "--onnx", file)
    assert "needs onnx, onnxscript, onnxruntime, which are not installed" in text
    assert not file.exists()


def test_two_exports_into_one_file_are_refused(refused, tiny_run, tmp_path):
    file = tmp_path / "decoder.onnx"
    line = refused("export", tiny_run, "--onnx", file, "--checkpoint", tmp_path / "." / file.name)
    assert line.endswith(f"--checkpoint and --onnx are both {file}; name two files")
    assert not file.exists()
