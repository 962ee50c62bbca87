import pytest
import torch
from torch import nn

from declip_pipeline.backbones.weights import load_strictly, sha256_of_tensors, shape_text
from declip_pipeline.errors import WeightsError


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_loads_every_value_as_float32() -> None:
    network = small_network()
    tensors = {
        name: torch.full_like(tensor, 0.5, dtype=torch.float16)
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    load_strictly(network, tensors, arch="small", source="weights w.pt")
    for parameter in network.parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, torch.full_like(parameter, 0.5))


def test_names_what_does_not_fit() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors = {
        "0.weight": torch.zeros(4, 3),
        "1.weight": torch.zeros(2),
        "extra": torch.tensor(1.0),
        "x1": torch.zeros(1),
        "x2": torch.zeros(1),
        "x3": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as caught:
        load_strictly(network, tensors, arch="small", source="weights w.pt")
    assert str(caught.value) == (
        "weights w.pt does not hold the weights of small (6 tensors; "
        "1 of another shape: 0.weight 4x3 instead of 2x3; "
        "4 missing: 0.bias 2, 1.bias 2, 1.running_mean 2, ...; "
        "4 unexpected: extra scalar, x1 1, x2 1, ...); "
        "give a file of small, or the `arch` of this file"
    )
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_hash_is_of_the_values_alone() -> None:
    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[3.0]])}
    expected = sha256_of_tensors(tensors)
    assert expected == sha256_of_tensors({"a": tensors["a"].half(), "b": tensors["b"].double()})
    assert expected == sha256_of_tensors(tensors | {"bn.num_batches_tracked": torch.tensor(9)})
    # sha256 of b"a [1, 1]\n" + <f4 3.0 + b"b [2]\n" + <f4 1.0, 2.0
    assert expected == "e451e362253227502eff226fc760093c2213e7a0a705fc6d1e2cd3a6e46c4636"


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.5])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"b": torch.tensor([1.0, 2.0])},
    ],
)
def test_hash_tells_values_shapes_and_names_apart(other: dict[str, torch.Tensor]) -> None:
    assert sha256_of_tensors({"a": torch.tensor([1.0, 2.0])}) != sha256_of_tensors(other)


def test_shapes_as_they_read() -> None:
    assert shape_text(torch.zeros(2, 3, 1)) == "2x3x1"
    assert shape_text(torch.tensor(1)) == "scalar"
