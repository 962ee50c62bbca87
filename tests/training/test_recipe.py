"""What a recipe refuses, and which precision "auto" is."""

import pytest
import torch

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.training.recipe import Recipe, choose_precision
from declip_pipeline.training.run import require_name


def test_auto_is_what_the_device_computes_in(tmp_path, monkeypatch, cpu):
    cpuinfo = tmp_path / "cpuinfo"

    def chosen(decoder_type, flags, device=cpu):
        cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags} sse\n")
        return choose_precision("auto", decoder_type, device, cpuinfo)

    assert chosen("conv-20", "avx512_bf16") == "bfloat16"
    assert chosen("attention", "amx_bf16") == "bfloat16"
    assert chosen("conv-20", "avx512f") == "float32"
    assert chosen("linear", "avx512_bf16") == "float32"
    assert choose_precision("auto", "conv-4", cpu, tmp_path / "absent") == "float32"
    assert choose_precision("float32", "conv-4", cpu, cpuinfo) == "float32"
    cuda = torch.device("cuda")
    for supported, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **how: supported)  # noqa: B023
        assert chosen("conv-4", "", cuda) == expected
    assert chosen("linear", "", cuda) == "float32"


def test_what_no_training_could_do_is_refused():
    with pytest.raises(UnknownNameError, match="unknown precision 'half'; known: auto, float32"):
        Recipe("linear", precision="half")
    with pytest.raises(InputError, match="micro batch of 9 images is larger than the batch of 8"):
        Recipe("linear", batch_size=8, micro_batch_size=9)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "`epochs` is 0; expected a whole number of at least 1"),
        ({"batch_size": "8"}, "`batch_size` is '8'; expected a whole number of at least 1"),
        ({"learning_rate": -1}, "`learning_rate` is -1; expected a number of at least 1e-06"),
        ({"seed": "a"}, "`seed` is 'a'; expected a whole number"),
    ],
)
def test_a_number_that_cannot_be_used_is_refused(option, message):
    with pytest.raises(InputError, match=message):
        Recipe(**option)


def test_a_whole_number_may_be_too_large_for_a_float():
    assert Recipe(patience=10**400).patience == 10**400


@pytest.mark.parametrize("name", ["../outside", "a/b", ".."])
def test_a_name_that_leads_out_of_the_folder_of_runs_is_refused(name):
    with pytest.raises(InputError, match="cannot name a folder; expected letters, digits"):
        require_name(name)
