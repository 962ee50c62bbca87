"""Settings of a study, read from YAML; an unknown key is refused, naming the nearest known one."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from declip_pipeline.errors import InputError, UnknownNameError

PACKAGED = Path(__file__).parent / "configs"
IN_CHECKOUT = Path(__file__).parents[1] / "configs"


class Settings(BaseModel):
    """A study's settings: strict, and unchangeable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DecoderSettings(Settings):
    """One decoder and how long it is trained."""

    decoder_type: str
    widths: list[int] | None = None
    epochs: int = Field(ge=1)


class GridSettings(Settings):
    """Options of `declip-pipe train`, of which those that span a grid are lists."""

    layers: StrictInt | str | list[StrictInt | str] | None = None
    decoders: str | list[str] | None = None
    seeds: StrictInt | list[StrictInt] | None = None
    learning_rate: float | list[float] | None = None
    train_on: list[str | list[str]] | None = None
    widths: list[int] | None = None
    beside: list[str] | None = None
    fusion: Literal["concat", "weighted"] | None = None
    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    initialization: Literal["paper", "pytorch"] | None = None
    precision: Literal["auto", "float32", "bfloat16"] | None = None

    def as_options(self) -> dict[str, Any]:
        """What was set, by the names and in the words of the command's parameters."""
        names = {
            "layers": "feature_layer",
            "decoders": "decoder_type",
            "seeds": "seed",
            "learning_rate": "learning_rate",
            "widths": "widths",
        }
        options: dict[str, Any] = {}
        for key, value in self.model_dump(exclude_none=True).items():
            if key == "train_on":
                options[key] = [_comma_separated(names) for names in value]
            elif key in names:
                options[names[key]] = _comma_separated(value)
            else:
                options[key] = value
        return options


class DemoSettings(Settings):
    """The demo: how large its set is, what is ablated, how decoders are trained."""

    arch: str
    train_count: int = Field(ge=1)
    valid_count: int = Field(ge=1)
    test_count: int = Field(ge=1)
    ablation_generator: str
    decoders: list[DecoderSettings] = Field(min_length=1)
    initialization: Literal["paper", "pytorch"]
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    patience: int = Field(ge=1)


def _comma_separated(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


SettingsType = TypeVar("SettingsType", bound=Settings)


def packaged_config(name: str) -> Path:
    """A config that ships with the program, from the wheel or from the checkout."""
    folder = PACKAGED if PACKAGED.is_dir() else IN_CHECKOUT
    return folder / name


def read_settings(path: Path, kind: type[SettingsType]) -> SettingsType:
    """Read settings from a YAML file. Raises `InputError` naming the key that is wrong."""
    try:
        values: Any = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {path} cannot be read; expected a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path} holds no settings; expected keys and values")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        key = str(errors[0]["loc"][0])
        unknown = next((one for one in errors if one["type"] == "extra_forbidden"), None)
        if unknown is not None and len(unknown["loc"]) == 1:
            raise UnknownNameError(f"key in {path}", key, kind.model_fields) from error
        # A value that may be one thing or another has an error for each.
        wrong = [one["msg"] for one in errors if one["loc"][0] == key]
        expected = ", or: ".join(dict.fromkeys(wrong))
        found = values.get(key, "nothing")
        raise InputError(f"config {path}: {key}: found {found!r}; {expected}") from error
