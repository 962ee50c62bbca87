"""Sources of maps that were evaluated, opened again to see their maps."""

from collections.abc import Sequence

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.evaluation.map_source import MapSource, OpenedSource
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.store.reader import Store


def evaluated_source(evaluation: Evaluation) -> MapSource:
    """Return the run, the ensemble or the folder of maps that was evaluated.

    Raises `InputError` for a folder that is not there any more.
    """
    if evaluation.runs:
        return Ensemble(evaluation.runs)
    return MapFolder.from_config(evaluation.config)


def open_evaluated(
    evaluation: Evaluation, images: LabelledImages, beside: Sequence[Store]
) -> OpenedSource:
    """Open what was evaluated, prepared for all of the evaluated images.

    Args:
        evaluation: Evaluation on a single store or dataset.
        images: The store or dataset.
        beside: The stores beside it that features were taken from.

    Raises:
        DeclipError: As `Selection` and `MapSource.opened`.
    """
    (about,) = evaluation.stores
    selection = Selection(
        images,
        split=evaluation.split,
        # All of them, since what a file is a map of depends on the other images.
        generators=about.made_from["generators"],
        beside=beside,
        task=evaluation.task,
    )
    return selection.check(evaluated_source(evaluation))
