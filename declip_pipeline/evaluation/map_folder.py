"""Folder of maps that another tool saved, as a source of maps."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from declip_pipeline.arguments import names_in, require_path
from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.datasets.listing import subfolders
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.groups import MAPS
from declip_pipeline.evaluation.map_source import MapSource, OpenedSource
from declip_pipeline.evaluation.opened_maps import MapFiles, OpenedMaps
from declip_pipeline.files import folder_name, sha256_of_json
from declip_pipeline.images.views import View, view_named
from declip_pipeline.options import MapsAre
from declip_pipeline.store.reader import Store


class MapFolder(MapSource):
    """A folder of maps that another tool saved, evaluated as a run is.

    Files are grey .png (8 or 16 bits), .tif, .npy and .npz, in any subfolders; an image's map has
    its name, see `match_maps`. Folders of `declip-pipe predict`, TruFor (IMAGE.npz with `map` and
    `score`) and IMDL-BenCo (pred/NAME.png) are read as they are.

    Example:
        >>> evaluation = evaluate(MapFolder("trufor_out", "TruFor"), store)
        >>> evaluation.mean("iou"), evaluation.findings.missing

    Attributes:
        folder: The folder.
        called: Name in tables.
        trained_on: Generators that the tool learned; empty where that is not stated.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        *,
        maps_are: MapsAre = "probabilities",
        resize_maps: bool = False,
        maps_key: str | None = None,
        trained_on: str | Sequence[str] = (),
    ) -> None:
        """Name the folder; its files are read when it is evaluated.

        Args:
            folder: The folder.
            name: Name in tables; None takes the folder's.
            maps_are: "probabilities" from 0 to 1, "logits", or "masks" of two values, the larger
                one fake.
            resize_maps: Take maps of another size than their image's, too, resized bilinearly.
            maps_key: Array of .npz files; None takes "map", or the only one that can be a map.
            trained_on: Generators that the tool learned, for the means in domain and out of
                domain. Without any, the maps are in neither.

        Raises:
            InputError: For a folder that is not there, or a name that no folder can have.
            UnknownNameError: For another kind of values.
        """
        require_path(folder, "a folder of maps")
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder} is no folder; expected one of maps")
        self.called = self.folder.resolve().name if name is None else name
        if not self.called.strip("._ ") or not self.called.isprintable():
            raise InputError(f"{self.called!r} cannot be the name of maps; expected a word")
        if maps_are not in get_args(MapsAre):
            raise UnknownNameError("values of maps", maps_are, get_args(MapsAre))
        self.maps_are: MapsAre = maps_are
        self.resize_maps = resize_maps
        self.maps_key = maps_key
        self.trained_on = tuple(sorted(set(names_in(trained_on, "generators"))))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "MapFolder":
        """Return the source of a `config`. Raises as the constructor."""
        return cls(
            config["folder"],
            config[MAPS],
            maps_are=config["maps_are"],
            resize_maps=config["resize_maps"],
            maps_key=config["maps_key"],
            trained_on=config["train_on"],
        )

    @property
    def path(self) -> Path:
        """Name of the folder of its evaluations."""
        return Path(folder_name("_".join([self.called, *self.trained_on])))

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.called

    def config(self) -> dict[str, Any]:
        """Return what is configured: the folder, how it is read, and what the tool learned."""
        config = {
            MAPS: self.called,
            "folder": str(self.folder.absolute()),
            "train_on": list(self.trained_on),
            "maps_are": self.maps_are,
            "resize_maps": self.resize_maps,
            "maps_key": self.maps_key,
        }
        return {**config, "run_sha256": sha256_of_json(config)}

    @property
    def fingerprint(self) -> str:
        """Identity of the folder and of how it is read."""
        return str(self.config()["run_sha256"])

    def at_view(self, view: View) -> "MapFolder":
        """Return the folder of the maps of a view, which has the view's name.

        Raises `InputError` where there is none.
        """
        below = self.folder / view.name
        if not below.is_dir():
            raise InputError(
                f"{self.folder} has no folder {view.name}; maps of a view lie in a folder of its "
                "name, those of the images themselves in clean"
            )
        return MapFolder(
            below,
            self.called,
            maps_are=self.maps_are,
            resize_maps=self.resize_maps,
            maps_key=self.maps_key,
            trained_on=self.trained_on,
        )

    @property
    def views(self) -> list[View]:
        """Views of which there is a folder of maps."""
        found = []
        for name in subfolders(self.folder):
            with suppress(InputError):
                found.append(view_named(name))
        return found

    def opened(self, images: Sequence[LabelledImages], beside: Sequence[Store]) -> OpenedSource:
        """List the files. Raises `InputError` for a folder without a map."""
        how = MapFiles(self.folder, self.maps_are, self.resize_maps, self.maps_key)
        return OpenedMaps(how, self.config())
