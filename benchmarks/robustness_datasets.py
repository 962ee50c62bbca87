"""Damaged lists and trees of images, and what a right result on them is."""

import csv
import io
import json
import os
import posixpath
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from robustness_children import Case, Ended
from robustness_images import EXTRACT, strict_pixels
from robustness_mutations import copied, damage_file, damaged_bytes, damaged_json, rewrite
from robustness_results import digest
from robustness_world import World

FOLDERS = (
    *("Train", "TRAIN", "validation", "val", "testing", "images", "masks", ".git", "train ", "x"),
    *("fake", "real", "__MACOSX", "@eaDir", "Tp", "Gt", "mask", "é"),
)
STRAY = (
    *(".DS_Store", "Thumbs.db", "._p0001.png", "notes.txt", "p0001.npz", "x.png", "x.tif"),
    *("p0001_mask.png", "desktop.ini", ".hidden.png", "a" * 251 + ".png", "x.png~"),
)
NO_DATA = {"__MACOSX", "@eaDir"}
"""Folders among these that systems leave behind: documented as no data, and left out unsaid."""
SUFFIXES = (".PNG", ".jpg", ".txt", ".npz", "", ".png.png", ".tiff", ".JPEG", ".gif")


def damaged_list(world: World, case: Case) -> None:
    """Damage a CSV or JSON list, and check or extract it.

    Right is a store with the rows that Python's own reader finds in the damaged list (image and
    mask by content, split, generator, label), or, where that finds none, of the undamaged one.
    """
    random = case.random
    name = random.choice(("list.csv", "list.json"))
    file = copied(world.root / name, case.folder / name)
    (case.folder / "made").symlink_to(world.data)
    before = file.read_bytes()
    if name == "list.json" and random.random() < 0.5:
        data, change = damaged_json(before, random)
    elif random.random() < 0.5:
        data, change = _damaged_cells(before, name, random)
    else:
        data, change = damaged_bytes(before, random)
    case.note(f"{name}: {change}")
    file.write_bytes(data)
    options = ("--polarity", "black-is-fake")
    if random.random() < 0.3:
        case.run("data", "check", file, *options, reports=True)
        return
    cache = case.folder / "cache"
    ended = case.run("extract", file, *options, *EXTRACT, "--cache", cache, "--name", "listed")
    if ended.is_done:
        try:
            expected = _listed(data, name, case.folder)
        except Exception:
            expected = _listed(before, name, case.folder)
        found = _stored_rows(ended.last_line)
        case.expect(found == expected, "the store's rows are not those of the list")


def _damaged_cells(data: bytes, name: str, random: Any) -> tuple[bytes, str]:
    is_json = name == "list.json"
    rows = json.loads(data) if is_json else list(csv.reader(io.StringIO(data.decode())))
    row, column = random.randrange(len(rows)), random.randrange(len(rows[0]))
    way = random.choice(("text", "twice", "exchanged", "longer", "mark", "ends", "column", "case"))
    if way == "text":
        rows[row][column] = random.choice(
            ("", " ", "x", "../x", "/etc/passwd", "made", "nan", "-1", "Negative", "NEGATIVE",
             "train", "validation", "real", "a" * 300, "\x00", "é", '"', "made/../made/real")
        )  # fmt: skip
        way = f"cell {row},{column} is {rows[row][column][:20]!r}"
    elif way == "twice":
        rows.append(list(rows[row]))
    elif way == "exchanged":
        other = random.randrange(len(rows))
        rows[row][column], rows[other][column] = rows[other][column], rows[row][column]
        way = f"cells {row},{column} and {other},{column} exchanged"
    elif way == "longer":
        rows[row].append("x")
    elif way == "column":
        for place, one in enumerate(rows):
            one.append(random.choice(("label", "scene", "", "mask")) if place == 0 else "1")
    elif way == "case":
        rows[row][column] = rows[row][column].upper()
    text = io.StringIO()
    if name == "list.json":
        text.write(json.dumps(rows))
    else:
        csv.writer(text, lineterminator="\r" if way == "ends" else "\n").writerows(rows)
    encoding = random.choice(("utf-8-sig", "utf-16", "latin-1")) if way == "mark" else "utf-8"
    found = text.getvalue().encode(encoding, "replace")
    return found, f"{way} {encoding if way == 'mark' else ''}".strip()


def _listed(data: bytes, name: str, folder: Path) -> list[tuple[Any, ...]]:
    if name == "list.json":
        rows = [
            {"image": image, "mask": mask} for image, mask in json.loads(data.decode("utf-8-sig"))
        ]
    else:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
        head = [cell.strip().lower() for cell in lines[0]]
        rows = [
            dict(zip(head, map(str.strip, line), strict=True))
            for line in lines[1:]
            if any(cell.strip() for cell in line)
        ]
    found = []
    for row in rows:
        mask = row["mask"].strip()
        mask = "" if mask.lower() == "negative" else mask
        label = 1 if mask else 0
        split = {"val": "valid", "": "all"}.get(row.get("split", "").lower())
        split = row.get("split", "").lower() if split is None else split
        contents = [
            digest((folder / posixpath.normpath(path)).read_bytes()) if path else ""
            for path in (row["image"].strip(), mask)
        ]
        generator = (row.get("generator") or "listed") if label else "real"
        found.append((*contents, split, generator, label))
    return sorted(found)


def _stored_rows(location: str) -> list[tuple[Any, ...]]:
    from declip_pipeline.store.reader import Store

    return sorted(
        (
            (one.image_sha256 or "")[:32],
            (one.mask_sha256 or "")[:32],
            one.split,
            one.generator,
            one.label,
        )
        for one in Store(location).samples
    )


def damaged_tree(world: World, case: Case) -> None:
    """Remove, add, rename or replace files and folders of a dataset, and check or extract it.

    Right is a store in which each row's mask is the file of its image's stem, and of which every
    image that is not a row is named on stderr, by its path, its name, its folder or its suffix;
    hidden files and `NO_DATA` are left out by rule.
    """
    is_pairs = case.random.random() < 0.6
    root = copied(world.pairs if is_pairs else world.data, case.folder / "data")
    for _ in range(case.random.choice((1, 1, 1, 2))):
        case.note(_disturbed(root, case))
    if case.random.random() < 0.3:
        case.run("data", "check", root, reports=True)
        return
    more = ("--allow-unpaired",) if case.random.random() < 0.4 else ()
    most = ("--max-failures", 2) if case.random.random() < 0.5 else ()
    ended = case.run("extract", root, *EXTRACT, "--cache", case.folder / "cache", *more, *most)
    if ended.is_done:
        _check_tree(case, root, ended)


def _disturbed(root: Path, case: Case) -> str:  # noqa: PLR0911, PLR0912
    random = case.random
    files = sorted(path for path in root.rglob("*") if path.is_file())
    folders = sorted(path for path in root.rglob("*") if path.is_dir())
    file, folder = random.choice(files), random.choice(folders)
    shown = file.relative_to(root).as_posix()
    way = random.randrange(12)
    if way == 0:
        return f"{shown}: {damage_file(file, random, random.sample(files, 3))}"
    if way == 1:
        new = folder.with_name(random.choice(FOLDERS))
        if new.exists():
            return "nothing"
        folder.rename(new)
        return f"folder {folder.relative_to(root)} is called {new.name!r}"
    if way == 2:
        new = file.with_suffix(random.choice(SUFFIXES))
        if new.exists():
            return "nothing"
        file.rename(new)
        return f"{shown} is called {new.name}"
    if way == 3:
        shutil.rmtree(folder)
        return f"folder {folder.relative_to(root)} removed"
    if way == 4:
        new = folder / random.choice(STRAY)
        data = random.choice((b"", b"text", file.read_bytes()))
        if not new.exists():
            new.write_bytes(data)
        return f"{new.name[-40:]} of {len(data)} bytes in {folder.relative_to(root)}"
    if way == 5:
        target = random.choice((root, folder, Path("/nowhere"), Path("/dev/zero"), file))
        link = folder / random.choice(("link", "link.png"))
        link.symlink_to(target)
        return f"{link.relative_to(root)} leads to {target.name}"
    if way == 6:
        pipe = folder / random.choice(("pipe.png", "pipe", "p0000.png"))
        if not pipe.exists():
            os.mkfifo(pipe)
        return f"a named pipe {pipe.relative_to(root)}"
    if way == 7:
        name = os.fsdecode(b"bad\xff.png")
        shutil.copy(file, folder / name)
        return f"a name that is not UTF-8 in {folder.relative_to(root)}"
    if way == 8:
        twin = file.with_suffix(random.choice((".jpg", ".bmp")))
        if file.read_bytes()[1:4] == b"PNG":
            Image.new("RGB", (56, 40), (9, 99, 199)).save(twin)
        return f"{twin.name} beside {shown}"
    if way == 9:
        deep = folder / "more" / "and more"
        deep.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, deep / file.name)
        return f"{file.name} in {deep.relative_to(root)}"
    if way == 10:
        data, change = damaged_bytes(file.read_bytes(), random)
        rewrite(file, data)
        return f"{shown}: {change}"
    new = folder / file.name
    if new.exists():
        return "nothing"
    file.rename(new)
    return f"{shown} moved to {folder.relative_to(root)}"


def _check_tree(case: Case, root: Path, ended: Ended) -> None:
    from declip_pipeline.datasets.listing import IMAGE_SUFFIXES
    from declip_pipeline.store.reader import Store

    store = Store(ended.last_line)
    base = Path(str(store.provenance["root"]))
    used: set[Path] = set()
    for row, sample in enumerate(store.samples):
        image = (base / sample.image).resolve()
        used.add(image)
        if sample.mask is None:
            continue
        mask = base / sample.mask
        used.add(mask.resolve())
        case.expect(mask.stem in (image.stem, Path(sample.image).stem), f"{sample.image}: {mask}")
        if row in store.failures:
            continue
        pixels = strict_pixels(mask.read_bytes(), mask.read_bytes())
        white = [np.asarray(Image.fromarray(one).convert("L")) >= 128 for one in pixels]
        right = white if store.fake_is_white else [~one for one in white]
        found = store.read_masks(np.array([row]))[0]
        case.expect(any(np.array_equal(found, one) for one in right), f"{sample.mask} is another")
    said = " ".join(ended.err.split())
    for file in sorted(root.rglob("*")):
        place = file.relative_to(root)
        by_rule = any(part.startswith(".") or part in NO_DATA for part in place.parts)
        if by_rule or not file.is_file() or file.resolve() in used:
            continue
        if file.suffix.lower() not in IMAGE_SUFFIXES and file.suffix != ".npz":
            continue
        names = (file.name, place.parent.name, file.suffix, place.as_posix())
        case.expect(any(name and name in said for name in names), f"silent about {place}")
