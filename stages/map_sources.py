"""What to evaluate, as a user types it: runs, ensembles of them, and folders of maps."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from declip_pipeline.errors import InputError

if TYPE_CHECKING:
    from declip_pipeline.datasets.labelled import LabelledImages
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_source import MapSource
    from declip_pipeline.training.run import Run

JOIN = "+"


def run_source(text: str) -> "MapSource":
    """Return a run that is named by its folder, or the ensemble of several joined by "+"."""
    from declip_pipeline.evaluation.ensemble import Ensemble

    return Ensemble(_folders(text))


def _folders(text: str) -> list[str]:
    """Split at each "+" that stands between folders: names of runs hold some themselves."""
    if JOIN not in text or Path(text).exists():
        return [text]
    parts = text.split(JOIN)
    found, start = [], 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        joined = {end: JOIN.join(parts[start:end]) for end in ends}
        end = next((end for end in ends if Path(joined[end]).exists()), start + 1)
        found.append(joined[end])
        start = end
    return found


def runs_of(sources: "Iterable[MapSource]") -> "list[Run]":
    """Return the runs that maps are of."""
    from declip_pipeline.evaluation.ensemble import Ensemble

    return [run for one in sources if isinstance(one, Ensemble) for run in one.runs]


def repeated_runs(sources: "Sequence[MapSource]") -> list[Path]:
    """Return the folders of runs that an ensemble was given again."""
    from declip_pipeline.evaluation.ensemble import Ensemble

    return [path for one in sources if isinstance(one, Ensemble) for path in one.repeated]


def cost_lines(source: "MapSource") -> list[str]:
    """Return a line on what an ensemble is of and what it costs; none for a single run."""
    from declip_pipeline.evaluation.ensemble import Ensemble

    if not isinstance(source, Ensemble) or len(source.runs) == 1:
        return []
    names = ", ".join(run.name for run in source.runs)
    return [
        f"  mean of the logits of {len(source.runs)} runs, {source.parameters:,} parameters: "
        f"{names}"
    ]


def remark_no_cost(sources: "Iterable[MapSource]") -> None:
    """Say of which sources no cost is known."""
    from stages.screen import remark

    for one in sources:
        if not runs_of([one]):
            remark(f"{one.name}: maps of another tool, whose cost is not known")


def map_folders(texts: Sequence[str], **how: Any) -> "list[MapSource]":
    """Return the folders of maps that a user typed as NAME=FOLDER or NAME:GENERATOR+...=FOLDER.

    Args:
        texts: What was typed.
        how: How the files are read, see `MapFolder`.

    Raises:
        InputError: For another form, or two folders of one name that learned the same.
    """
    found = [_map_folder(text, how) for text in texts]
    for number, one in enumerate(found):
        if one.path in [other.path for other in found[:number]]:
            raise InputError(f"two folders of maps are called {one.name}; give each its own name")
    return found


def _map_folder(text: str, how: Mapping[str, Any]) -> "MapSource":
    from declip_pipeline.evaluation.map_folder import MapFolder

    called, equals, folder = text.partition("=")
    name, colon, learned = called.partition(":")
    generators = learned.split(JOIN) if colon else []
    if not (name and equals and folder) or not all(generators):
        raise InputError(
            f"--maps {text!r}; expected NAME=FOLDER, or NAME:GENERATOR+GENERATOR=FOLDER with the "
            "generators that the tool learned, as in TruFor=out/trufor"
        )
    return MapFolder(folder, name, trained_on=generators, **how)


def require_maps(sources: "Sequence[MapSource]", how: Mapping[str, Any]) -> None:
    """Raise `InputError` for options of how maps are read where there are none."""
    from declip_pipeline.evaluation.map_folder import MapFolder

    defaults = {"maps_are": "probabilities", "resize_maps": False, "maps_key": None}
    given = [name for name, value in how.items() if value != defaults[name]]
    if given and not any(isinstance(one, MapFolder) for one in sources):
        raise InputError(f"`{given[0]}` says how maps are read, and there are none; leave it out")


def is_maps(text: str) -> bool:
    """Return whether an argument names a folder of maps, as NAME=FOLDER does, and no run."""
    return "=" in text and not Path(text).exists()


def images_on(
    places: Sequence[str],
    sources: "Sequence[MapSource]",
    splits: Sequence[str],
    *,
    layout: str = "auto",
    fake_is_white: bool | None = None,
    allow_unpaired: bool = False,
    columns: Mapping[str, str] | None = None,
) -> "list[LabelledImages]":
    """Open what is evaluated on: stores, or where no run needs features also datasets.

    Raises `InputError` for a dataset beside runs, which is no store.

    Args:
        places: Stores, or folders or lists of images with masks.
        sources: What is evaluated.
        splits: Splits that are taken of datasets.
        layout: See `open_dataset`, as the three next ones.
        fake_is_white: See `layout`.
        allow_unpaired: See `layout`.
        columns: See `layout`.
    """
    from declip_pipeline.datasets.file_images import DatasetImages
    from declip_pipeline.datasets.layouts import list_dataset
    from declip_pipeline.datasets.opening import open_dataset
    from declip_pipeline.store.reader import as_store
    from stages.screen import progress, remark

    options: dict[str, Any] = {
        "layout": layout,
        "fake_is_white": fake_is_white,
        "allow_unpaired": allow_unpaired,
        "columns": columns,
    }
    found: list[LabelledImages] = []
    for place in places:
        if runs_of(sources):
            _require_no_dataset(place, layout)
        if runs_of(sources) or not _is_dataset(Path(place)):
            found.append(as_store(place))
            continue
        with progress(f"reading {place}", "files") as tell:
            dataset = open_dataset(place, splits=splits, notice=remark, progress=tell, **options)
        found.append(DatasetImages(dataset, known=list_dataset(place, **options).samples))
    is_read = any(isinstance(one, DatasetImages) for one in found)
    if not is_read and (layout != "auto" or fake_is_white is not None or allow_unpaired or columns):
        raise InputError(
            "`layout`, `polarity`, `allow_unpaired` and `columns` say how a dataset is read, and "
            "`on` names stores; leave them out"
        )
    return found


def _is_dataset(place: Path) -> bool:
    from declip_pipeline.store.format import GROUP

    if place.is_file():
        return place.suffix.lower() in (".json", ".csv", ".parquet")
    return place.is_dir() and not (place / GROUP).is_file()


def _require_no_dataset(place: str, layout: str) -> None:
    """Raise `InputError` for images with masks where runs need a store of their features."""
    from declip_pipeline.datasets.layouts import recognise_layout

    if not _is_dataset(Path(place)):
        return
    try:
        known = recognise_layout(place, layout)
    except InputError:
        return  # What it is not is said where it is opened as a store.
    raise InputError(
        f"{place} is a dataset (layout {known}), and runs need features; expected the store that "
        "`declip-pipe extract` made of it, or maps alone, without a RUN"
    )


def remark_findings(evaluations: "Sequence[Evaluation]") -> bool:
    """Say what folders of maps lack or have too much; return whether they do either."""
    from declip_pipeline.datasets.pairing import count_and_names
    from stages.screen import remark

    is_lacking = False
    by_folder: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        if one.findings is not None:
            by_folder.setdefault(str(one.config["folder"]), []).append(one)
    for folder, own in by_folder.items():
        some = [one.findings for one in own if one.findings is not None]
        missing = {name: reason for one in some for name, reason in one.missing.items()}
        # A map may be of an image of another store.
        extra = [file for file in some[0].extra if all(file in one.extra for one in some)]
        constant = list(dict.fromkeys(name for one in some for name in one.constant))
        is_lacking = is_lacking or bool(missing or extra)
        if missing:
            listed = [f"{name} ({reason})" for name, reason in missing.items()]
            remark(f"{folder}: {count_and_names('image', listed)} not evaluated")
        if extra:
            remark(f"{folder}: {count_and_names('map', extra)} without an image in the data")
        if constant:
            remark(f"{folder}: {count_and_names('map', constant)} of one value")
        if any(one.without_real for one in some):
            remark(f"{folder}: no map of a real image, so false alarms are not evaluated")
        if some[0].unread:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in some[0].unread.items())
            remark(f"{folder}: not read, files of another kind: {counts}")
    return is_lacking
