"""Metrics of localization: their names and titles, and the protocol that each stands for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from declip_pipeline.arguments import names_in
from declip_pipeline.errors import InputError, UnknownNameError

ALL = "all"


@dataclass(frozen=True)
class Metric:
    """Metric of localization.

    Attributes:
        title: Heading of a column.
        meaning: What it is, in a report.
        highest: Best value: 100 for a metric in percent, else 1.
        lowest: Worst value.
        remarks: What a caption says of it: what it leaves out, how it differs from the others.
    """

    title: str
    meaning: str
    highest: float = 1.0
    lowest: float = 0.0
    remarks: tuple[str, ...] = ()

    @property
    def percent(self) -> float:
        """Factor that turns a value into percent, the unit of all tables."""
        return 100 / self.highest


@dataclass(frozen=True)
class MaskKind:
    """Kind of mask that is made of a map.

    Attributes:
        label: How a line or a heading says it.
        kept: What a run keeps from its split `valid` for it; "" for nothing.
        meaning: What a caption says of it.
    """

    label: str
    kept: str = ""
    meaning: str = ""


_SHARE_OF_REAL = "In that choice real images have the share that they had in training."

MASKS = {
    "": MaskKind("at 0.5"),
    "_valid_threshold": MaskKind(
        "at valid's threshold",
        "threshold",
        "Masks of the same maps above a threshold that each run has chosen on valid, in place of "
        "0.5; the logit of an ensemble's threshold is the mean of its members'. "
        f"{_SHARE_OF_REAL}",
    ),
    "_min_region": MaskKind(
        "without small regions",
        "minimum size of regions",
        "The masks at 0.5 without regions below a minimum size, a share of the image that each run "
        f"has chosen on valid; of an ensemble it is the mean of its members'. {_SHARE_OF_REAL}",
    ),
}
"""Kinds of masks by the end of their figures' names: `iou_min_region`, `fake_share_min_region`."""

_BAND = (
    "leaves out a band along the mask's edge (eroded by 15, dilated by 11 pixels), so it is not "
    "2 IoU / (1 + IoU)"
)
_OWN = "at the threshold that is best for each image itself: an upper bound"
_NO_THRESHOLD = "over all thresholds"

METRICS = {
    "iou": Metric("IoU", "IoU", highest=100.0),
    "f1_best": Metric(
        "F1 best (TruFor)", "TruFor's F1 at the best threshold of each image", remarks=(_BAND, _OWN)
    ),
    "f1_fixed": Metric("F1 (TruFor)", "TruFor's F1 at 0.5", remarks=(_BAND,)),
    "ap": Metric("AP", "AP of pixels", remarks=(_NO_THRESHOLD,)),
    "iou_valid_threshold": Metric(
        "IoU at valid's threshold",
        "IoU at the threshold that is best on valid",
        highest=100.0,
        remarks=("at the threshold that was best on valid in training",),
    ),
    "iou_min_region": Metric(
        "IoU without small regions",
        "IoU at 0.5 without regions below the minimum size that is best on valid",
        highest=100.0,
        remarks=("without regions below the minimum size that was best on valid in training",),
    ),
    "f1": Metric(
        "F1",
        "F1 at 0.5",
        remarks=(
            "of each image it is 2 IoU / (1 + IoU), but the mean of F1 is not that of the mean IoU",
        ),
    ),
    "f1_optimal": Metric("F1 best", "F1 at the best threshold of each image", remarks=(_OWN,)),
    "auc": Metric(
        "AUC", "AUC of pixels", remarks=(_NO_THRESHOLD, "without images that are fake as a whole")
    ),
    "mcc": Metric("MCC", "MCC at 0.5", lowest=-1.0, remarks=("from -100 to 100",)),
    "precision": Metric(
        "precision", "precision at 0.5", remarks=("0 where nothing is called fake",)
    ),
    "recall": Metric("recall", "recall at 0.5"),
}
"""Metrics of single images: each IoU in percent, the others in [0, 1], MCC in [-1, 1].

`iou_valid_threshold` is NaN for runs that keep no threshold, see `Run.valid_threshold`,
`iou_min_region` for those that keep no minimum size, see `Run.min_region`; `auc` is NaN for an
image whose pixels are all fake. Tables are in percent.
"""

PIXEL_COUNTS = ("found_pixels", "called_pixels", "fake_pixels")
"""Numbers of an image's pixels: fake and called so at 0.5, called fake, fake."""

_POOLED = "of the pixels of all images together, so a large image weighs more"
POOLED_METRICS = {
    "iou_pooled": Metric(
        "IoU pooled", "IoU of all pixels together", highest=100.0, remarks=(_POOLED,)
    ),
    "f1_pooled": Metric("F1 pooled", "F1 of all pixels together", remarks=(_POOLED,)),
}
"""Metrics of all images' pixels together, in units as those of `METRICS`."""

LOCALIZATION_METRICS = {**METRICS, **POOLED_METRICS}
"""All metrics of localization by name."""

DETECTION_METRICS = {
    "ap": Metric("AP", "AP of whole images"),
    "auc": Metric("AUC", "AUC of whole images"),
    "accuracy_at_0_5": Metric("accuracy at 0.5", "accuracy at 0.5", highest=100.0),
    "accuracy_at_threshold": Metric(
        "accuracy", "accuracy at the threshold that is best on valid", highest=100.0
    ),
    "f1_at_0_5": Metric("F1 at 0.5", "F1 of whole images at 0.5"),
    "f1_at_threshold": Metric("F1", "F1 of whole images at the threshold that is best on valid"),
}
"""Metrics of detection, of all images together: accuracies in percent, the others in [0, 1]."""

DEFAULT_METRICS = (
    *("iou", "f1", "f1_fixed", "f1_best", "ap", "auc"),
    *("iou_valid_threshold", "iou_min_region"),
)
"""Metrics that are printed where none are named."""


PROTOCOL = (
    "in percent, means over images with a fake pixel [95% interval over scenes]; maps are resized "
    "to each mask's own size, fake is above 0.5, and no pixel is left out, unless said otherwise"
)
"""Unit and protocol of figures of localization, as a caption says them."""


DETECTION_PROTOCOL = (
    "in percent, over all images together, from scores of whole images at the decoder's own map "
    "size [95% interval over scenes]"
)
"""Unit and protocol of figures of detection, as a caption says them."""


def chosen_metrics(
    names: str | Sequence[str] | None, known: Mapping[str, Metric] = LOCALIZATION_METRICS
) -> tuple[str, ...]:
    """Return the named metrics, each once; all of them for "all".

    For None those that are printed where none are named: `DEFAULT_METRICS`, of detection all.

    Args:
        names: Name of a metric, or several.
        known: `LOCALIZATION_METRICS` or `DETECTION_METRICS`.

    Raises:
        UnknownNameError: For a name that is not one of `known`.
        InputError: For no name, or what is none.
    """
    if names is None:
        return DEFAULT_METRICS if known is LOCALIZATION_METRICS else tuple(known)
    names = names_in(names, "metrics")
    if not names:
        raise InputError(f"`metrics` is empty; expected some of {', '.join(known)}, or all")
    for name in names:
        if name not in (*known, ALL):
            raise UnknownNameError("metric", name, known)
    return tuple(known) if ALL in names else tuple(dict.fromkeys(names))


def protocol_lines(metrics: Collection[str]) -> list[str]:
    """Return a caption: unit, protocol, and what each metric leaves out.

    Args:
        metrics: Names of `LOCALIZATION_METRICS` that a table shows.
    """
    remarks: dict[str, list[str]] = {}
    for name in metrics:
        one = LOCALIZATION_METRICS[name]
        for remark in one.remarks:
            remarks.setdefault(remark, []).append(one.title)
    return [PROTOCOL, *(f"{', '.join(titles)}: {remark}" for remark, titles in remarks.items())]
