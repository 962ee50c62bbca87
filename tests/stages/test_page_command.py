"""`declip-pipe app`: what it refuses, and how it ends."""

import builtins
import importlib.util
import socket

import pytest


@pytest.fixture
def taken():
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_one_line(refused, tiny_run, taken):
    assert refused("app", tiny_run, "--port", taken) == (
        f"port {taken} of 127.0.0.1 cannot be used: address already in use; name another with "
        "--port, or --port 0 for a free one"
    )


def test_an_address_of_no_machine_is_one_line(refused, tiny_run):
    line = refused("app", tiny_run, "--host", "no.such.host.invalid")
    assert line == "--host no.such.host.invalid is no address of this machine"


def test_without_gradio_it_says_what_to_install(refused, tiny_run, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name)
    )
    assert refused("app", tiny_run, code=1) == (
        "the page needs Gradio, which is not installed; pip install 'declip-pipe[app]'"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", "2"), "--threshold '2'; expected a number from 0 to 1, or valid"),
        (("--max-megabytes", "inf"), "inf is not a number that can be used; expected a finite one"),
        (("--port", "99999"), "invalid value for '--port'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_opened(
    refused, tiny_run, monkeypatch, options, message
):
    monkeypatch.setattr(
        "declip_pipeline.training.predictor_opening.open_run_backbones", builtins.exit
    )
    assert refused("app", tiny_run, "--port", 0, *options).startswith(message)


def test_a_folder_that_is_no_run_is_refused(refused, tmp_path):
    assert refused("app", tmp_path, "--port", 0).startswith(f"{tmp_path} is not a run")
