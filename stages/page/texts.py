"""Sentences of the page: what a run found in an image, in plain words."""

from declip_pipeline.prediction.analysis import AnalyzedImage, Finding, RealShare
from declip_pipeline.training.run import Run

NOTICE = (
    "This page finds regions that were edited inside a photograph. It does not tell whether a "
    "whole image is synthetic, and finding nothing does not make an image real."
)


def run_title(run: Run) -> str:
    """Return a short title of a run."""
    config = run.config()
    return f"{config['decoder_type']} on {config['layer']}"


def run_subtitle(run: Run) -> str:
    """Return a run's backbones and what it was trained on."""
    config = run.config()
    features = config["features"]
    names = dict.fromkeys(str(part["backbone"]) for part in features.get("parts", [features]))
    trained = ", ".join(config["train_on"])
    return " + ".join(names) + (f"; trained on {trained}" if trained else "")


def percent(share: float) -> str:
    """Return a share as percent, as exact as a reader needs it."""
    value = 100 * share
    if value >= 99.95:
        return "100%" if share == 1 else "more than 99.9%"
    if value >= 10:
        return f"{value:.0f}%"
    if value >= 0.1:
        return f"{value:.1f}".removesuffix(".0") + "%"
    return "less than 0.1%"


def verdict(finding: Finding, threshold: float) -> str:
    """Return how much of an image looks manipulated."""
    share = finding.fake_share(threshold)
    if share == 0:
        return "No pixel looks manipulated"
    return f"{percent(share)} of the pixels look manipulated"


def rate(finding: Finding, threshold: float) -> str:
    """Return how often the run says as much of real images, or that this is not known."""
    share = finding.fake_share(threshold)
    found = finding.real_share(threshold, share)
    if found is not None:
        return _rate_text(found, is_none=share == 0)
    return "How often this happens on real images is not known: the run keeps no record of any."


def notes(image: AnalyzedImage, finding: Finding) -> list[str]:
    """Return what a reader should know of a run's map of an image."""
    found = []
    if finding.run.config().get("pooling") is not None:
        found.append(
            "The run was trained on labels of images, not on masks: take its map as a hint. It "
            f"scores the whole image {finding.maps.score:.2f} (1 = fake)."
        )
    elif not finding.run.config().get("with_real"):
        found.append("The run never saw a real image in training.")
    if finding.run.problem is not None:
        found.append(f"The run learned nothing useful: {finding.run.problem}.")
    if finding.is_shrunk:
        height, width = finding.smallest_region
        found.append(
            f"The image is shrunk before it is looked at: regions smaller than {width}x{height} "
            "pixels cannot be found. Cut out the part in question, or use a run on tiles."
        )
    return found


def _rate_text(found: RealShare, *, is_none: bool) -> str:
    if is_none:
        # Counted are images with at least a pixel; the others have none, as this one.
        none = found.total - found.images
        return f"So it is on {none} of {found.total} real images of the validation split."
    start = "On real images of the validation split this happens in"
    if found.images == 0:
        return f"{start} none of {found.total}."
    if 2 * found.images > found.total:
        return f"{start} {found.images} of {found.total}: it means little."
    return f"{start} 1 of {round(found.total / found.images)} ({found.images} of {found.total})."
