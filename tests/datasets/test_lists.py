"""JSON lists and CSV files."""

import json
from pathlib import Path
from typing import Any

import pytest

from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.errors import InputError

CSV = (
    "a .csv file whose first line is image,mask "
    "(or more of image,mask,split,generator,source,label,scene)"
)
JSON = 'a .json file with a list of [image, mask | "Negative"]'


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for path in ("fakes/a.png", "fakes/b.png", "truth/1.png", "truth/2.png", "real/c.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def json_of(files: Path, value: Any) -> Path:
    path = files / "mine.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def csv_of(files: Path, *lines: str) -> Path:
    path = files / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def error(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        list_dataset(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_json_list_pairs_by_what_it_says(files: Path) -> None:
    entries = [["fakes/a.png", "truth/2.png"], ["fakes/b.png", "truth/1.png"]]
    dataset = list_dataset(json_of(files, [*entries, ["real/c.png", "Negative"]]))
    assert (dataset.name, dataset.root, dataset.fake_is_white) == ("mine", files, True)
    found = [(s.id, s.mask, s.generator, s.split, s.source) for s in dataset.samples]
    assert found == [
        ("fakes/a", "truth/2.png", "mine", "all", "mine"),
        ("fakes/b", "truth/1.png", "mine", "all", "mine"),
        ("real/c", None, "real", "all", "mine"),
    ]


def test_absolute_paths_elsewhere_make_their_folder_the_root(files: Path, tmp_path: Path) -> None:
    aside = tmp_path / "lists"
    aside.mkdir()
    entries = [[str(files / "fakes/a.png"), "../truth/1.png"]]
    dataset = list_dataset(json_of(aside, entries))
    assert dataset.root == files
    assert dataset.samples[0].image == "fakes/a.png"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", f"mine.json is not JSON (Expecting property name enclosed in double quotes: line 1 "
              f"column 2 (char 1)); expected {JSON}"),
        ({"a": "b"}, f"mine.json holds no list; expected {JSON}"),
        ([["a", "b"], "c"], f'mine.json: entry 2 is "c"; expected {JSON}'),
        ([["a", None]], f'mine.json: entry 1 is ["a", null]; expected {JSON}'),
        ([], "mine.json lists no images; expected at least one"),
    ],
)  # fmt: skip
def test_other_json(files: Path, value: Any, message: str) -> None:
    assert error(json_of(files, value)) == f"{files}/{message}"


def test_files_that_are_not_there(files: Path) -> None:
    entries = [["fakes/a.png", "truth/1.png"], ["fakes/b.png", "truth/9.png"]]
    path = json_of(files, entries)
    assert error(path) == (
        f"{path} lists 1 file (truth/9.png) that cannot be found; paths are relative to the "
        "list's own folder, pass `allow_unpaired=True` to leave these out"
    )
    dataset = list_dataset(path, allow_unpaired=True)
    assert [s.id for s in dataset.samples] == ["fakes/a"]
    assert dataset.unpaired == ("fakes/b.png",)


def test_a_list_of_which_nothing_is_there_names_what_it_lists(files: Path) -> None:
    path = json_of(files, [[f"fakes/{number}.png", "Negative"] for number in range(10)])
    names = ", ".join(f"fakes/{number}.png" for number in range(5))
    message = (
        f"{path} lists 10 files ({names} and 5 more) that cannot be found; paths are relative to "
        "the list's own folder, none of its 10 samples has its files"
    )
    assert error(path) == message
    assert error(path, allow_unpaired=True) == message


def test_a_picture_listed_twice(files: Path) -> None:
    path = json_of(files, [["real/c.png", "Negative"], ["./real/c.png", "Negative"]])
    assert error(path) == f"{path} lists real/c.png twice; each image is one sample"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_marks_of_bytes_and_a_tables_index_are_no_data(files: Path, mark: str, index: str) -> None:
    image, mask = "fakes/a.png", "truth/1.png"
    (files / "list.json").write_text(f"{mark}{json.dumps([[image, mask]])}", encoding="utf-8")
    (files / "list.csv").write_text(
        f"{mark}{index},image,mask\n0,{image},{mask}\n", encoding="utf-8"
    )
    one, other = (list_dataset(files / name, name="own") for name in ("list.json", "list.csv"))
    assert one.samples == other.samples
    assert one.samples[0].image == "fakes/a.png"


def test_a_csv_file_may_say_all(files: Path) -> None:
    lines = [
        "Mask,split,IMAGE,label,generator,source",
        "truth/1.png,train,fakes/a.png,1,lama,faces",
        "truth/2.png,VAL,fakes/b.png,,,",
        "",
        "Negative,test,real/c.png,0,,faces",
    ]
    found = [
        (s.id, s.mask, s.split, s.generator, s.source)
        for s in list_dataset(csv_of(files, *lines)).samples
    ]
    assert found == [
        ("fakes/a", "truth/1.png", "train", "lama", "faces"),
        ("fakes/b", "truth/2.png", "valid", "mine", "mine"),
        ("real/c", None, "test", "real", "faces"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,truth"], f" has no column mask (image,truth); expected {CSV}"),
        ([""], f" has no column image (empty); expected {CSV}"),
        (["image,mask,mask"], " has two columns mask; remove one of them"),
        (["image,mask", "a,b,c"], ", line 2 has 3 cells; 2 expected, as in line 1"),
        (["image,mask", ",b"], ", line 2 names no image; fill in image or remove the line"),
        (
            ["image,mask,label", "a,b,yes"],
            ", line 2 has label 'yes'; 1 fake, 0 real or -1 unknown expected",
        ),
        (
            ["image,mask,label", "a,b,0"],
            ", line 2 has label 0 and a mask; a real image has Negative for mask",
        ),
        (
            ["image,mask,label", "a,,1"],
            ", line 2 has label 1 and no mask; a fake needs its mask",
        ),
        (
            ["image,mask,generator", "a,b,real"],
            ", line 2 has a mask and generator real; name what made the fake",
        ),
        (
            ["image,mask,split", "a,b,", "c,,test"],
            ": 1 of 2 images have no split; name one for each, or none",
        ),
        (["image,mask"], " lists no images; expected at least one"),
    ],
)
def test_other_csv(files: Path, lines: list[str], message: str) -> None:
    assert error(csv_of(files, *lines)) == f"{files}/mine.csv{message}"


def test_unknown_columns_and_splits_name_the_nearest(files: Path) -> None:
    message = error(csv_of(files, "image,mask,splits"))
    assert "mine.csv 'splits'; did you mean 'split'? known: image, mask, split, gen" in message
    message = error(csv_of(files, "image,mask,split", "a,b,tset"))
    expected = "line 2 'tset'; did you mean 'test'? known: train, valid, test"
    assert message.startswith("unknown split in ") and message.endswith(expected)


def test_bytes_that_are_no_text(files: Path) -> None:
    (files / "mine.csv").write_bytes(b"image,mask\n\xff\xfe,b\n")
    assert f"; expected {CSV}" in error(files / "mine.csv")
    (files / "mine.json").write_bytes(b"\xff\xfe\xfa")
    assert f"; expected {JSON}" in error(files / "mine.json")


@pytest.mark.parametrize(
    "value",
    [
        {"Columbia": "/IML/Columbia.json", "CASIAv1": "/IML/CASIA1.0"},
        [["JsonDataset", "/IML/Columbia.json"], ["ManiDataset", "/IML/CASIA1.0"]],
    ],
)
def test_benco_s_lists_of_datasets_are_named_as_such(files: Path, value: object) -> None:
    assert error(json_of(files, value)) == (
        f"{files}/mine.json lists 2 datasets (/IML/Columbia.json, /IML/CASIA1.0) and no images; "
        "open each of these"
    )
