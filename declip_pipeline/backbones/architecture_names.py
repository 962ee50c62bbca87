"""The names of architectures as users write them, and the error for a name that is none."""

from difflib import get_close_matches

from declip_pipeline.errors import UnknownNameError

OPENAI_NAMES = (
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
)
FROM_FILE = "CLIP:from-file"
EFFICIENTNET_LITE0 = "efficientnet-lite0"
PIXELS = "pixels"


def known_architectures() -> list[str]:
    """The paper's names and the embedded network, then how open_clip's and timm's are written."""
    return [
        EFFICIENTNET_LITE0,
        *(f"CLIP:{name}" for name in OPENAI_NAMES),
        "ViT-L/14,RN50 (a fusion)",
        "ARCH/TAG (open_clip, as ViT-B-32/laion2b_s34b_b79k)",
        "timm:NAME or timm:NAME.TAG (as timm:vit_small_patch14_dinov2.lvd142m)",
        f"{PIXELS}:299 (the picture itself, of any side, for patch-forensics)",
        f"{FROM_FILE} (OpenAI layout, with --weights)",
    ]


def unknown_architecture(found: str) -> UnknownNameError:
    """The error for `found`: the nearest names of open_clip and timm, then the known kinds."""
    import open_clip
    import timm

    names = [
        EFFICIENTNET_LITE0,
        FROM_FILE,
        *OPENAI_NAMES,
        *(f"CLIP:{name}" for name in OPENAI_NAMES),
        *open_clip.list_models(),
        *(f"{arch}/{tag}" for arch, tag in open_clip.list_pretrained()),
        *(f"timm:{name}" for name in timm.list_models()),
    ]
    near = get_close_matches(found, names, n=3)
    return UnknownNameError("architecture", found, dict.fromkeys([*near, *known_architectures()]))
