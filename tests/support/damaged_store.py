"""A small store of several shards, and the ways to damage it by hand."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from support.made_dataset import write_dataset

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.files import canonical_json
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import parse_header
from declip_pipeline.store.shards import CHECKSUM_BYTES
from declip_pipeline.store.storage import storage_at
from declip_pipeline.store.writer import completion

WEIGHTS = Path(__file__).parents[1] / "golden" / "tiny_vit_openai.pt"
ROWS_PER_SHARD = 4
LAYERS = ("layer0", "layer3")
# 15 pictures of three splits, sorted by id: test, train, valid.
UNREADABLE_ROW = 6
LAYER_CHUNK = 257 * 128 + CHECKSUM_BYTES  # of int8

Damage = Callable[[Path], None]


def make_store(root: Path, backbone: Backbone) -> tuple[Path, Path]:
    """A dataset with one unreadable image, and its store.

    The backbone must be that of `WEIGHTS`, and `fmt.ROWS_PER_SHARD` be patched meanwhile.
    """
    dataset = write_dataset(root / "noisy")
    unreadable = sorted((dataset / "images" / "train").iterdir())[UNREADABLE_ROW - 4]
    unreadable.write_bytes(unreadable.read_bytes()[:300])
    opened = open_dataset(dataset)
    extraction = extract_store(
        opened,
        backbone,
        layers=LAYERS,
        root=root / "cache",
        dtype="int8",
        batch_size=3,
        provenance={"arch": "CLIP:from-file", "weights": [str(WEIGHTS)]},
    )
    assert list(extraction.failures) == [UNREADABLE_ROW]
    return dataset, Path(extraction.location)


def files_of(path: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def change_json(path: Path, key: str, change: Callable[[dict], None]) -> None:
    """Change a record, leaving it canonical JSON."""
    value = json.loads((path / key).read_bytes())
    change(value)
    (path / key).write_bytes(canonical_json(value))


def exchange_rows(path: Path, one: int, other: int) -> None:
    """Write the manifest again with two of its rows exchanged."""
    samples = Samples.from_parquet((path / fmt.MANIFEST).read_bytes())
    rows = list(range(len(samples)))
    rows[one], rows[other] = other, one
    (path / fmt.MANIFEST).write_bytes(samples.take(rows).to_parquet())


def seal(path: Path) -> None:
    """Make the ledger and the completion fit the files, as only a wrong writer could have."""
    for entry in sorted((path / "ledger").iterdir()):
        value = json.loads(entry.read_bytes())
        for key in value["files"]:
            data = (path / key).read_bytes()
            value["files"][key] = {"bytes": len(data), "blake3": blake3(data).hexdigest()}
        entry.write_bytes(canonical_json(value))
    seal_metadata(path)


def seal_metadata(path: Path) -> None:
    """Make the completion fit the other records as they are."""
    storage = storage_at(path)
    header = parse_header(storage.read(fmt.GROUP), str(path))
    entries = (json.loads(entry.read_bytes()) for entry in sorted((path / "ledger").iterdir()))
    failures = {int(row): why for entry in entries for row, why in entry["failures"].items()}
    (path / fmt.COMPLETE).write_bytes(canonical_json(completion(storage, header, failures)))


def remove(key: str) -> Damage:
    return lambda path: (path / key).unlink()


def cut(key: str, length: int) -> Damage:
    return lambda path: (path / key).write_bytes((path / key).read_bytes()[:-length])


def flip(key: str, offset: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray((path / key).read_bytes())
        data[offset] ^= 4
        (path / key).write_bytes(data)

    return damage


def swap(one: str, other: str) -> Damage:
    def damage(path: Path) -> None:
        first, second = (path / one).read_bytes(), (path / other).read_bytes()
        assert first != second
        (path / one).write_bytes(second)
        (path / other).write_bytes(first)

    return damage


def write(key: str, text: str) -> Damage:
    def damage(path: Path) -> None:
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        (path / key).write_text(text)

    return damage


def copy(key: str, to: str) -> Damage:
    def damage(path: Path) -> None:
        shutil.copy(path / key, path / to)

    return damage


def edit(key: str, old: str, new: str) -> Damage:
    def damage(path: Path) -> None:
        text = (path / key).read_text()
        assert old in text
        (path / key).write_text(text.replace(old, new, 1))

    return damage


def shard(name: str, number: int) -> str:
    """The key of a shard of an array with two axes a row."""
    return f"{name}/c.{number}.0.0"


@dataclass(frozen=True)
class Case:
    """A kind of damage, and what verification says of it.

    `key` is the file named, `what` a part of the reason, `rows` those that it costs. `is_shallow`
    says whether sizes and records alone name it.
    """

    damage: Damage
    key: str
    what: str
    rows: tuple[int, ...] = ()
    is_shallow: bool = True


_SHARD_0, _SHARD_1, _SHARD_3 = (0, 1, 2, 3), (4, 5, 7), (12, 13, 14)
_ALL_1 = (4, 5, 6, 7)
_LAYER, _OTHER = "layers/layer0", "layers/layer3"
_NOT_RECORDED = "was edited or damaged, its SHA-256 is not that in complete.json"
_LEDGER = "ledger/000001.json"

# Each of them names one file, and can be repaired.
SHARD_CASES = {
    "missing": Case(remove(shard(_OTHER, 1)), shard(_OTHER, 1), "its file is missing", _SHARD_1),
    "truncated": Case(
        cut(shard(_LAYER, 3), 5), shard(_LAYER, 3), "bytes, the ledger says 98800", _SHARD_3
    ),
    "empty": Case(
        write(shard("scales/layer0", 0), ""),
        shard("scales/layer0", 0),
        "it has 0 bytes, the ledger says 4228",
        _SHARD_0,
    ),
    "flipped in a chunk": Case(
        flip(shard(_LAYER, 1), LAYER_CHUNK + 5),
        shard(_LAYER, 1),
        "a chunk's checksum differs",
        (5,),
        is_shallow=False,
    ),
    "flipped in a checksum": Case(
        flip(shard(_LAYER, 0), LAYER_CHUNK - 1),
        shard(_LAYER, 0),
        "a chunk's checksum differs",
        (0,),
        is_shallow=False,
    ),
    "flipped in an index": Case(
        flip(shard(_LAYER, 0), -30),
        shard(_LAYER, 0),
        "the index of a shard is damaged",
        _SHARD_0,
        is_shallow=False,
    ),
    "flipped in a compressed chunk": Case(
        flip(shard("masks", 0), 9), shard("masks", 0), "checksum differs", (0,), is_shallow=False
    ),
    "flipped in a thumbnail": Case(
        flip("thumbnails/c.3.0.0.0", 9),
        "thumbnails/c.3.0.0.0",
        "checksum differs",
        (12,),
        is_shallow=False,
    ),
    "replaced": Case(
        copy(shard(_OTHER, 1), shard(_LAYER, 1)),
        shard(_LAYER, 1),
        "its shard holds other images or features, as when files are moved",
        _SHARD_1,
        is_shallow=False,
    ),
    "its ledger's hash edited": Case(
        lambda path: change_json(
            path, _LEDGER, lambda entry: entry["files"][shard(_LAYER, 1)].update(blake3="0" * 64)
        ),
        shard(_LAYER, 1),
        "its BLAKE3 hash is not that in the ledger",
        _SHARD_1,
        is_shallow=False,
    ),
}
LEDGER_CASES = {
    "missing": Case(remove(_LEDGER), _LEDGER, "is missing", _ALL_1),
    "no JSON": Case(cut(_LEDGER, 9), _LEDGER, "is damaged (Unterminated string", _ALL_1),
    "no text": Case(
        lambda path: (path / _LEDGER).write_bytes(b"{\xff}"),
        _LEDGER,
        "is damaged ('utf-8' codec can't decode byte 0xff in position 1",
        _ALL_1,
    ),
    "of other type": Case(
        write(_LEDGER, "[]"), _LEDGER, "is damaged (it is [], expected a mapping)", _ALL_1
    ),
    "of another shard": Case(
        copy("ledger/000002.json", _LEDGER),
        _LEDGER,
        "is that of shard 2 with rows [8, 12], expected shard 1 with rows [4, 8]",
        _ALL_1,
    ),
    "of other rows": Case(
        lambda path: change_json(path, _LEDGER, lambda entry: entry.update(rows=[4, 7])),
        _LEDGER,
        "is that of shard 1 with rows [4, 7], expected",
        _ALL_1,
    ),
    "of other samples": Case(
        lambda path: change_json(path, _LEDGER, lambda e: e.update(manifest_sha256="0" * 64)),
        _LEDGER,
        "its manifest is not the store's",
        _ALL_1,
    ),
    "without a file": Case(
        lambda path: change_json(path, _LEDGER, lambda entry: entry["files"].pop("masks/c.1.0.0")),
        _LEDGER,
        "lists other files than those of the shard",
        _ALL_1,
    ),
    "a failure's reason edited": Case(
        edit(_LEDGER, "truncated", "mangled"),
        _LEDGER,
        "has other failures than complete.json",
        _ALL_1,
    ),
    "a failure more": Case(
        lambda path: change_json(path, _LEDGER, lambda e: e["failures"].update({"5": "gone"})),
        _LEDGER,
        "has other failures than complete.json",
        _ALL_1,
    ),
    "a failure of another shard": Case(
        lambda path: change_json(path, _LEDGER, lambda e: e["failures"].update({"8": "gone"})),
        _LEDGER,
        "has the row '8', expected rows from 4 to 7",
        _ALL_1,
    ),
    "printed otherwise": Case(
        edit(_LEDGER, ":", ": "), _LEDGER, "was edited, it is no canonical JSON any more", _ALL_1
    ),
}
RECORD_CASES = {
    "an array's shape": Case(
        edit("layers/layer0/zarr.json", "257", "256"), "layers/layer0/zarr.json", _NOT_RECORDED
    ),
    "an array's metadata missing": Case(remove("masks/zarr.json"), "masks/zarr.json", "is missing"),
    "a group's metadata missing": Case(
        remove("scales/zarr.json"), "scales/zarr.json", "is missing"
    ),
    "an array's metadata no JSON": Case(
        cut("targets/zarr.json", 9), "targets/zarr.json", _NOT_RECORDED
    ),
    "labels": Case(flip("labels/c.0", 3), "labels/c.0", _NOT_RECORDED),
    "labels missing": Case(remove("labels/c.0"), "labels/c.0", "is missing"),
    "sizes": Case(flip("sizes/c.0.0", 8), "sizes/c.0.0", _NOT_RECORDED),
    "sizes missing": Case(remove("sizes/c.0.0"), "sizes/c.0.0", "is missing"),
    "the group printed otherwise": Case(edit("zarr.json", ": ", ":"), "zarr.json", _NOT_RECORDED),
    "the number of rows": Case(edit("zarr.json", '"rows": 15', '"rows": 9'), "zarr.json", "SHA"),
    "the rows of a shard": Case(
        edit("zarr.json", '"rows_per_shard": 4', '"rows_per_shard": 0'), "zarr.json", "SHA"
    ),
    "a layer's shape": Case(
        edit("zarr.json", '"channels": 128', '"channels": 64'), "zarr.json", "SHA"
    ),
    "completion missing": Case(
        remove("complete.json"), "complete.json", "the store is incomplete: it alone is missing"
    ),
    "completion no JSON": Case(
        cut("complete.json", 9), "complete.json", "is damaged (Unterminated string"
    ),
    "completion of other type": Case(
        write("complete.json", "[1]"), "complete.json", "is damaged (it is [1], expected a mapping)"
    ),
    "completion printed otherwise": Case(
        edit("complete.json", ":", ": "), "complete.json", "was edited, it is no canonical JSON"
    ),
    "completion of other rows": Case(
        edit("complete.json", '"rows":15', '"rows":16'),
        "complete.json",
        "has 16 rows, the manifest 15",
    ),
    "completion of other failures": Case(
        edit("complete.json", "truncated", "mangled"),
        "complete.json",
        "has other failures than the ledger",
    ),
    "completion of another ledger": Case(
        lambda path: change_json(
            path, "complete.json", lambda value: value.update(ledger_sha256="0" * 64)
        ),
        "complete.json",
        "ledger_sha256 is not that of the ledger",
    ),
    "completion without a file": Case(
        lambda path: change_json(
            path, "complete.json", lambda value: value["metadata_sha256"].pop("labels/c.0")
        ),
        "complete.json",
        "lists other metadata files than the store's",
    ),
    "completion with a file more": Case(
        lambda path: change_json(
            path, "complete.json", lambda value: value["metadata_sha256"].update(notes="0" * 64)
        ),
        "complete.json",
        "lists other metadata files than the store's",
    ),
    "a shard of no rows": Case(
        copy(shard(_LAYER, 1), shard(_LAYER, 4)),
        shard(_LAYER, 4),
        "belongs to no shard in the ledger",
    ),
    "a ledger entry of no rows": Case(
        copy(_LEDGER, "ledger/000004.json"),
        "ledger/000004.json",
        "belongs to no shard in the ledger",
    ),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("shard", SHARD_CASES), ("ledger", LEDGER_CASES), ("record", RECORD_CASES))
    for name, case in cases.items()
}
