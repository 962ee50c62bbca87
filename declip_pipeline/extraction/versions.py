"""Versions of the libraries that a store's bytes come from: recorded, and compared later."""

from collections.abc import Mapping
from typing import Any

from declip_pipeline.entry_points import installed_versions

# They decode, resize and compute; each release may change a last bit, or how a damaged file ends.
_LIBRARIES = ("numpy", "opencv-python-headless", "open_clip_torch", "pillow", "timm", "torch")


def versions() -> dict[str, str]:
    """Return the versions of the libraries here, by name; without those that are not installed."""
    return installed_versions(_LIBRARIES)


def different_versions(provenance: Mapping[str, Any]) -> str:
    """Return the libraries that a store was made with and that differ here.

    Such as "torch 2.6.0 (here 2.7.1), timm 1.0.15 (here none)"; empty where none does, or none is
    recorded.
    """
    recorded = provenance.get("versions")
    here = versions()
    return ", ".join(
        f"{name} {made_with} (here {here.get(name, 'none')})"
        for name, made_with in (recorded.items() if isinstance(recorded, dict) else ())
        if here.get(name) != made_with
    )
