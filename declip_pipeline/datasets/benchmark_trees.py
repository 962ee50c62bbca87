"""Trees of published benchmarks whose images and masks pair by parts of their paths.

A tree is a few patterns of paths. Wherever below the root the folders of a pattern lie, files that
match are taken: archives are unpacked one or two folders deep.

Where these facts come from, and where sources disagree:

- CASIA v1 and v2 (Dong et al., ChinaSIP 2013), masks by Pham et al. (Symmetry 2019): the pages of
  namtpham/casia1groundtruth and casia2groundtruth. In Tp_D_CRN_S_N_cha00063_art00014_11818 they
  call the first image the source of what was copied and the second the target: the scene here.
  Authors' mistakes in names are known, so some files have no partner. Some masks of v2 have another
  size than their images.
- Columbia uncompressed (Hsu and Chang, ICME 2006): photoholmes and other readers take the green
  regions (0,255,0 near the edge and 0,200,0 elsewhere) as spliced, the second camera of a name; one
  converter takes bright red alone, the edge of the first camera's region. Green is taken here.
  Masks are JPEG, so green is what is more green than red. Other edge masks (_edgemask_3) are left
  out.
- COVERAGE (Wen et al., ICIP 2016): N.tif is real, Nt.tif forged, Nforged.tif its mask; Ncopy.tif
  and Npaste.tif are left out. One reader notes masks of another size than their images.
- IMD2020 (Novozamsky et al., WACV 2020 workshops), real-life part: a folder a photograph, with
  NAME_orig.jpg and forgeries X.png with X_mask.png. Its other part, images inpainted by a network,
  lies in other trees.
- CocoGlide (Guillaro et al., CVPR 2023): real/, fake/ and mask/ have other names for one image,
  with its number in COCO in each.
- DEFACTO (Mahfoudi et al., EUSIPCO 2019): KIND_img/img and KIND_annotations/probe_mask, splicing in
  seven parts. Its donor and inpainting masks are left out. Some masks have another size than their
  images. The number after the underscore is that of the image in COCO.
- TGIF and TGIF2 (Mareen et al., WIFS 2024, arXiv 2407.11566): the page of IDLabMedia/tgif-dataset.
  It does not say which mask a spliced image belongs to; here the one with the extra border
  (_ps_mask), which names of spliced images hold. Regenerated images (-fr) have the cropped mask of
  the edited region, though every pixel of them is computed. Real crops are left out.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.datasets.contents import green_of
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_images, subfolders
from declip_pipeline.datasets.pairing import require_paired
from declip_pipeline.datasets.sample import REAL_GENERATOR, UNSPLIT
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import split_named
from declip_pipeline.errors import InputError

FAKE_IS_WHITE = True
SOME_FOLDERS = 8
"""Folders of a tree without names of its own that are looked into to recognise it."""

_IMAGE = r"\.(?:tiff?|jpe?g|png|bmp)"


class Paths:
    """Pattern of paths, in any case, and texts that are filled with its groups."""

    def __init__(self, pattern: str, **texts: str) -> None:
        self._pattern = re.compile(rf"(?:.*/)?{pattern}{_IMAGE}", re.IGNORECASE)
        self._texts = texts

    def match(self, path: str) -> dict[str, str] | None:
        """Return the texts, filled and in lower case; None for another path."""
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        groups = {name: value or "" for name, value in found.groupdict().items()}
        return {name: text.format(**groups).lower() for name, text in self._texts.items()}


@dataclass(frozen=True)
class Tree:
    """Paths of a benchmark's files.

    Attributes:
        expected: Description of the tree, for errors.
        rule: How a mask belongs to its image, for errors.
        fakes: Patterns of forged images, the first that matches counts, with the texts `key`,
            `scene`, `generator` and `split`; a scene is the key, and a split "all", where they do
            not say otherwise.
        masks: Pattern of masks, with the same `key`.
        reals: Pattern of real images, with the texts `scene` and `split`.
        signs: Patterns of the names of folders that the root holds; one folder for each.
        split: Split of all images.
        is_green: Masks are green where fake, and red elsewhere.
        has_spare_masks: Masks without an image are expected: there is one of each kind and size for
            each photograph, and one downloads the sets of images that one wants.
    """

    expected: str
    rule: str
    fakes: tuple[Paths, ...]
    masks: Paths
    reals: Paths | None = None
    signs: tuple[str, ...] = ()
    split: str = UNSPLIT
    is_green: bool = False
    has_spare_masks: bool = False


_CASIA_1 = r"(?P<name>sp_[ds]_[^/]*?_(?P<source>[a-z]+\d+)_(?P<target>[a-z]+\d+)_\d+)"
_CASIA_2 = r"(?P<name>tp_[ds]_[^/]*?_(?P<source>[a-z]+\d+)_(?P<target>[a-z]+\d+)_\d+)"
_AUTHENTIC = r"au/au_(?P<category>[a-z]+)_(?P<number>\d+)"
_TGIF = r"(?P<split>training|validation|testing)/(?P<category>[^/]+/)?(?P<id>\d+)"
_TGIF_FAKE = rf"(?P<set>[a-z0-9]+(?:-random)?-%s)/{_TGIF}_mask_(?P<type>bbox|segm|random)\.png"

TREES: Mapping[str, Tree] = {
    "casia1": Tree(
        "the tree of CASIA v1, Tp/Sp and Tp/CM beside the folder of its groundtruth",
        "the mask of Sp_NAME.jpg is Sp_NAME_gt.png",
        fakes=(
            Paths(rf"(?:sp|cm|tp)/{_CASIA_1}", key="{name}", scene="{target}", generator="casia1"),
            Paths(r"(?:sp|cm|tp)/(?P<name>sp_[ds]_[^/]+)", key="{name}", generator="casia1"),
        ),
        masks=Paths(
            r"[^/]*(?:groundtruth|gt)[^/]*/(?:sp/|cm/)?(?P<name>sp_[^/]+)_gt", key="{name}"
        ),
        reals=Paths(_AUTHENTIC, scene="{category}{number}"),
        signs=(r".*(tp|dataset|sp|cm).*", r".*(groundtruth|gt).*"),
        split="test",
    ),
    "casia2": Tree(
        'the tree of CASIA v2, Tp/ beside "CASIA 2 Groundtruth" or Gt/',
        "the mask of Tp_NAME.jpg is Tp_NAME_gt.png",
        fakes=(
            Paths(rf"tp/{_CASIA_2}", key="{name}", scene="{target}", generator="casia2"),
            Paths(r"tp/(?P<name>tp_[ds]_[^/]+)", key="{name}", generator="casia2"),
        ),
        masks=Paths(r"(?:casia ?2[^/]*groundtruth|gt)/(?P<name>tp_[^/]+?)(?:_gt)?", key="{name}"),
        reals=Paths(_AUTHENTIC, scene="{category}{number}"),
        signs=("tp", r"casia ?2.*groundtruth|gt"),
        split="train",
    ),
    "columbia": Tree(
        "the tree of Columbia, 4cam_splc/ with edgemask/ in it, and 4cam_auth/",
        "the mask of NAME.tif is edgemask/NAME_edgemask.jpg",
        fakes=(Paths(r"4cam_splc/(?P<name>[^/]+)", key="{name}", generator="columbia"),),
        masks=Paths(r"4cam_splc/edgemask/(?P<name>[^/]+)_edgemask", key="{name}"),
        reals=Paths(r"4cam_auth/(?P<name>[^/]+)", scene="{name}"),
        signs=("4cam_splc",),
        split="test",
        is_green=True,
    ),
    "coverage": Tree(
        "the tree of COVERAGE, image/1.tif, image/1t.tif and mask/1forged.tif",
        "the mask of image/1t.tif is mask/1forged.tif",
        fakes=(Paths(r"image/(?P<name>\d+)t", key="{name}", generator="coverage"),),
        masks=Paths(r"mask/(?P<name>\d+)forged", key="{name}"),
        reals=Paths(r"image/(?P<name>\d+)", scene="{name}"),
        signs=("image", "mask"),
        split="test",
    ),
    "tgif": Tree(
        "the tree of TGIF, masks/ beside sd2-sp/, ps-sp/, sd2-fr/ or sdxl-fr/, each with "
        "training/, validation/ and testing/",
        "the mask of sd2-fr/SPLIT/ID_mask_TYPE.png_sd2-512_0.png is "
        "masks/SPLIT/ID_mask_TYPE_512.png",
        fakes=(
            Paths(
                _TGIF_FAKE % "sp" + r"_ps(?:_mask\.png_(?P<model>[a-z0-9]+))?_\d",
                key="{split}/{category}{id}_mask_{type}.png_ps_mask",
                scene="{split}/{id}",
                generator="{set}",
                split="{split}",
            ),
            Paths(
                (_TGIF_FAKE % "fr").replace("bbox|segm|random", "bbox|segm")
                + r"_(?P<model>[a-z0-9]+)-(?P<size>\d+)_\d",
                key="{split}/{category}{id}_mask_{type}_{size}",
                scene="{split}/{id}",
                generator="{set}",
                split="{split}",
            ),
            Paths(
                (_TGIF_FAKE % "fr").replace("bbox|segm|random", "random")
                + r"_(?P<model>[a-z0-9]+)-(?P<size>\d+)_\d",
                key="{split}/{category}{id}_mask_{size}",
                scene="{split}/{id}",
                generator="{set}",
                split="{split}",
            ),
        ),
        masks=Paths(
            rf"masks[^/]*/{_TGIF}(?P<name>_mask_[^/]+)", key="{split}/{category}{id}{name}"
        ),
        reals=Paths(
            rf"orig(?:inal)?(?:-flux)?/{_TGIF}_orig", scene="{split}/{id}", split="{split}"
        ),
        signs=(r"masks.*", r"[a-z0-9]+(-random)?-(sp|fr)"),
        has_spare_masks=True,
    ),
    "cocoglide": Tree(
        "the tree of CocoGlide, fake/ beside mask/ and real/",
        "the mask of fake/glide_inpainting_val2017_NUMBER_up.png is mask/CLASS_NUMBER_mask.png",
        fakes=(
            Paths(
                r"fake/glide_inpainting_val2017_(?P<id>\d+)_up", key="{id}", generator="cocoglide"
            ),
        ),
        masks=Paths(r"mask/[^/]+_(?P<id>\d+)_mask", key="{id}"),
        reals=Paths(r"real/[^/]+_(?P<id>\d+)", scene="{id}"),
        signs=("fake", "mask"),
        split="test",
    ),
    "defacto": Tree(
        "the tree of DEFACTO, KIND_img/img beside KIND_annotations/probe_mask",
        "the mask of KIND_img/img/NAME.tif is KIND_annotations/probe_mask/NAME.jpg",
        fakes=(
            Paths(
                r"(?P<kind>splicing|copymove|inpainting)(?P<part>_\d+)?_img/(?:img/)?"
                r"(?P<name>\d+_(?P<id>\d+))",
                key="{kind}{part}/{name}",
                scene="{id}",
                generator="defacto-{kind}",
            ),
            Paths(
                r"(?P<kind>splicing|copymove|inpainting)(?P<part>_\d+)?_img/(?:img/)?"
                r"(?P<name>[^/]+)",
                key="{kind}{part}/{name}",
                generator="defacto-{kind}",
            ),
        ),
        masks=Paths(
            r"(?P<kind>splicing|copymove|inpainting)(?P<part>_\d+)?_annotations/probe_mask/"
            r"(?P<name>[^/]+)",
            key="{kind}{part}/{name}",
        ),
        signs=(r"(splicing|copymove|inpainting)(_\d+)?_img",),
    ),
    "imd2020": Tree(
        "the tree of IMD2020, a folder a photograph with X_orig.jpg, Y.jpg and Y_mask.png",
        "the mask of Y.jpg is Y_mask.png beside it",
        fakes=(
            Paths(
                r"(?P<scene>[^/]+)/(?P<name>(?![^/]*_(?:mask|orig)\.)[^/]+)",
                key="{scene}/{name}",
                scene="{scene}",
                generator="imd2020",
            ),
        ),
        masks=Paths(r"(?P<scene>[^/]+)/(?P<name>[^/]+)_mask", key="{scene}/{name}"),
        reals=Paths(r"(?P<scene>[^/]+)/[^/]+_orig", scene="{scene}"),
    ),
}
"""Benchmarks by the name of their layout."""


def read_tree(
    root: Path, layout: str, *, name: str, fake_is_white: bool, allow_unpaired: bool
) -> Dataset:
    """Read a tree of `TREES`; `name` is the source, and generators are those of the tree.

    Raises:
        InputError: For no images, and images and masks without a partner unless `allow_unpaired`
            (masks, unless the tree has spare ones).
    """
    tree = TREES[layout]
    mask_of: dict[str, str] = {}
    fakes: list[tuple[str, dict[str, str]]] = []
    reals: list[tuple[str, dict[str, str]]] = []
    for path in list_images(root):
        if (mask := tree.masks.match(path)) is not None:
            other = mask_of.setdefault(mask["key"], path)
            if other != path:
                raise InputError(
                    f"two masks share one name, {other} and {path}; remove one of them"
                )
        elif (fake := _first(tree.fakes, path)) is not None:
            fakes.append((path, fake))
        elif tree.reals is not None and (real := tree.reals.match(path)) is not None:
            reals.append((path, real))
    if not fakes and not mask_of:
        raise InputError(f"{root} is not this benchmark; expected {tree.expected}")
    paired = [(path, texts) for path, texts in fakes if texts["key"] in mask_of]
    alone = [path for path, texts in fakes if texts["key"] not in mask_of]
    used = {texts["key"] for _, texts in paired}
    masks_alone = [path for key, path in mask_of.items() if key not in used]
    if tree.has_spare_masks:
        masks_alone = []
    if not allow_unpaired:
        require_paired(str(root), alone, masks_alone, rule=tree.rule)
    address = green_of if tree.is_green else str
    samples = Samples.from_columns(
        [path for path, _ in (*paired, *reals)],
        mask=[*(address(mask_of[texts["key"]]) for _, texts in paired), *[None] * len(reals)],
        split=[split_named(texts.get("split", "")) or tree.split for _, texts in (*paired, *reals)],
        generator=[*(texts["generator"] for _, texts in paired), *[REAL_GENERATOR] * len(reals)],
        source=name,
        scene=[texts.get("scene") or texts["key"] for _, texts in (*paired, *reals)],
    )
    return Dataset(name, root, fake_is_white, samples, tuple(sorted(alone + masks_alone)))


def is_tree(root: Path, layout: str) -> bool:
    """Return whether `root` has the folders of a benchmark, and a forged image of it."""
    tree = TREES[layout]
    names = list(subfolders(root))
    if not all(any(re.fullmatch(one, n, re.IGNORECASE) for n in names) for one in tree.signs):
        return False
    if layout == "imd2020":  # its folders have no names, and any folder may hold a great many
        names = names[:SOME_FOLDERS]
        images = [f"{name}/{path}" for name in names for path in list_images(root / name)]
        originals = [path for path in images if tree.reals is not None and tree.reals.match(path)]
        with_original = {path.rpartition("/")[0] for path in originals}
        images = [path for path in images if path.rpartition("/")[0] in with_original]
    else:
        images = list_images(root)
    masks = {path for path in images if tree.masks.match(path)}
    return bool(masks) and any(_first(tree.fakes, p) for p in images if p not in masks)


def _first(patterns: Iterable[Paths], path: str) -> dict[str, str] | None:
    return next((found for one in patterns if (found := one.match(path)) is not None), None)
