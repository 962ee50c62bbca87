"""Texts about an extraction: its price, and where its time went."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from declip_pipeline.extraction.estimate import Estimate
    from declip_pipeline.extraction.store_plan import StorePlan


def price_text(plan: "StorePlan", estimate: "Estimate") -> str:
    """Return lines on the size and the time of a store."""
    identity = plan.identity
    taken = estimate.images - estimate.done_images - estimate.computed_images
    done = f", {estimate.done_images} of them done already" if estimate.done_images else ""
    reused = f", {taken} of them from earlier stores" if taken else ""
    free = "no limit" if estimate.free_bytes is None else f"{estimate.free_bytes / 1e9:.2f} GB"
    needed = estimate.store_bytes * (1 - estimate.done_images / estimate.images)
    short = estimate.free_bytes is not None and needed > estimate.free_bytes
    seconds = estimate.seconds
    tiled = "" if identity.tiles is None else f", tiles of {identity.tiles}"
    lines = {
        "store": plan.location,
        "images" if identity.tiles is None else "tiles": f"{estimate.images}{done}{reused}",
        "layers": f"{', '.join(identity.layers)} of {identity.backbone}",
        "view": f"{identity.view}{tiled}",
        "dtype": identity.dtype,
        "size": f"{estimate.store_bytes / 1e9:.3f} GB",
        "free": free + (", too little" if short else ""),
        "time": f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes",
        "memory": f"{estimate.peak_bytes / 1e9:.1f} GB at most",
    }
    return "\n".join(f"{name:8}{value}" for name, value in lines.items())


def profile_text(seconds: "Mapping[str, float]", wall: float) -> str:
    """Seconds by stage, a line each, beside the `wall` time of all."""
    from declip_pipeline.extraction.stage_times import STAGES

    lines = [f"{'stage':10}{'seconds':>9}{'of wall':>9}"]
    for stage, what in STAGES.items():
        lines.append(f"{stage:10}{seconds[stage]:9.2f}{seconds[stage] / wall:9.0%}  {what}")
    return "\n".join([*lines, f"{'wall':10}{wall:9.2f}"])
