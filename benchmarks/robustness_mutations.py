"""Seeded damage: to bytes, to JSON and YAML, and to the files of a folder."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

DEEP = 100_000
"""Levels of nesting that no parser written as a recursion survives."""

# Texts that stand for a JSON value, among them those that only lenient parsers take.
JSON_VALUES = (
    *("null", "true", "false", "0", "-1", "1", "2", "0.5", "-0.0", "1e-320", "1e308", "1e999"),
    *("NaN", "-Infinity", "9223372036854775807", "9223372036854775808", "18446744073709551616"),
    *('""', '"x"', '"../../x"', '"\\u0000"', '"\\ud800"', "[]", "{}", "[null]", '{"a":1}', "[[]]"),
    "1" + "0" * 400,
    "1" * 5000,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    '"' + "y" * 100_000 + '"',
)
# Aliases of aliases: a list of 400 million texts.
_ALIASES = ", ".join(
    f"&s{level} [{', '.join([f'*s{level - 1}' if level else 'x'] * 9)}]" for level in range(9)
)
YAML_VALUES = (
    *("null", "~", "true", "on", "0", "-1", "1_000", "0x10", "010", "1e3", ".nan", ".inf", "1e999"),
    *("2020-01-01", "12:30:45", "''", "'0'", "[]", "{}", "[1, 2]", "{a: b}", "!!binary aGk="),
    *("!!python/object/apply:os.getcwd []", "!!set {a, b}", "*unknown", "&a [*a]", "'\\0'"),
    *("9223372036854775808", "1" + "0" * 400, "layer1,,layer2", "- x", "@x", "`x`", "%x", "|\n  x"),
    "[" * 3000 + "]" * 3000,
    f"[{_ALIASES}]",
)


def damaged_bytes(data: bytes, random: Random, other: bytes = b"") -> tuple[bytes, str]:
    """Return changed bytes, and what was done. `other` is content of another such file."""
    ways: list[Callable[[bytes, Random], tuple[bytes, str]]] = [
        _flipped,
        _flipped,
        _header_flipped,
        _truncated,
        _spliced,
        _overwritten,
        _header_number,
        _extended,
    ]
    if not data or random.random() < 0.01:
        return (b"", "emptied") if data else (b"\0", "one zero byte")
    if other and random.random() < 0.08:
        return _crossed(data, other, random)
    found, change = random.choice(ways)(data, random)
    return (found, change) if found != data else _flipped(data, random)


def _flipped(data: bytes, random: Random) -> tuple[bytes, str]:
    changed = bytearray(data)
    places = [random.randrange(len(data)) for _ in range(random.choice((1, 1, 1, 2, 8)))]
    for place in places:
        changed[place] ^= 1 << random.randrange(8)
    return bytes(changed), f"bits flipped at {places} of {len(data)}"


def _header_flipped(data: bytes, random: Random) -> tuple[bytes, str]:
    changed = bytearray(data)
    place = random.randrange(min(len(data), 100))
    changed[place] = random.randrange(256)
    return bytes(changed), f"byte {place} of {len(data)} is {changed[place]}"


def _header_number(data: bytes, random: Random) -> tuple[bytes, str]:
    width = random.choice((2, 4, 8))
    place = random.randrange(max(1, min(len(data) - width, 300)))
    value = random.choice((0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 65_500, 30_000))
    order = random.choice(("little", "big"))
    number = (value % 2 ** (8 * width)).to_bytes(width, order)
    changed = data[:place] + number + data[place + width :]
    return changed, f"{width} bytes at {place} are {value}, {order} endian"


def _truncated(data: bytes, random: Random) -> tuple[bytes, str]:
    kept = random.choice((random.randrange(len(data)), max(0, len(data) - random.randint(1, 12))))
    return data[:kept], f"truncated to {kept} of {len(data)} bytes"


def _spliced(data: bytes, random: Random) -> tuple[bytes, str]:
    start, length = random.randrange(len(data)), random.randint(1, max(1, len(data) // 4))
    piece, place = data[start : start + length], random.randrange(len(data))
    if random.random() < 0.5:
        return data[:place] + piece + data[place:], f"{len(piece)} bytes inserted at {place}"
    kept = data[:start] + data[start + length :]
    return kept, f"{len(piece)} of {len(data)} bytes cut out at {start}"


def _overwritten(data: bytes, random: Random) -> tuple[bytes, str]:
    start, length = random.randrange(len(data)), random.randint(1, max(1, len(data) // 8))
    fill = random.choice((b"\0", b"\xff", b" "))
    length = min(length, len(data) - start)
    changed = data[:start] + fill * length + data[start + length :]
    return changed, f"{length} bytes at {start} of {len(data)} are {fill!r}"


def _extended(data: bytes, random: Random) -> tuple[bytes, str]:
    more = random.choice((b"\0", b"}", b"\n", random.randbytes(40), data[: len(data) // 2]))
    return data + more, f"{len(more)} bytes appended, they begin {more[:8]!r}"


def _crossed(data: bytes, other: bytes, random: Random) -> tuple[bytes, str]:
    place = random.randrange(len(data))
    return data[:place] + other[place:], f"from byte {place} on, another file's content"


def damaged_json(data: bytes, random: Random) -> tuple[bytes, str]:
    """Return a JSON text with a value, a key or an entry changed, and what was done."""
    value = json.loads(data)
    compact = b'": ' not in data
    places = list(_places(value, ()))
    place = random.choice(places)
    marker = "a value to be replaced"
    text = ""
    if place and random.random() < 0.35:
        change = _entry_changed(value, place, random)
    else:
        text = random.choice(JSON_VALUES)
        value = _with(value, place, marker)
        change = f"{_shown(place)} is {text[:40]}"
    separators = (",", ":") if compact else None
    found = json.dumps(value, sort_keys=compact, separators=separators, ensure_ascii=False)
    found = found.replace(json.dumps(marker), text)
    return found.encode("utf-8", "surrogatepass"), change


def damaged_yaml(data: bytes, random: Random) -> tuple[bytes, str]:
    """Return a YAML text with a value, a key or an entry changed, and what was done."""
    value = yaml.safe_load(data)
    place = random.choice([place for place in _places(value, ()) if place])
    marker = "a value to be replaced"
    chance = random.random()
    if chance < 0.3:
        change = _entry_changed(value, place, random)
        return yaml.safe_dump(value, sort_keys=False).encode(), change
    if chance < 0.36:
        return data + data, "the whole text twice"
    text = random.choice(YAML_VALUES)
    found = yaml.safe_dump(_with(value, place, marker), sort_keys=False)
    return found.replace(marker, text).encode(), f"{_shown(place)} is {text[:40]}"


def damaged_lines(data: bytes, random: Random) -> tuple[bytes, str]:
    """Return lines of JSON with one of them changed, removed or repeated, and what was done."""
    lines = data.splitlines(keepends=True)
    place = random.randrange(len(lines))
    way = random.choice(("changed", "changed", "removed", "repeated"))
    if way == "changed":
        line, change = damaged_json(lines[place], random)
        lines[place] = line + b"\n"
        return b"".join(lines), f"line {place}: {change}"
    lines[place : place + 1] = [] if way == "removed" else [lines[place]] * 2
    return b"".join(lines), f"line {place} {way}"


def damaged_table(data: bytes, random: Random) -> tuple[bytes, str]:
    """Return a Parquet table with a column, cell or row changed, and what was done."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    place, row = random.randrange(table.num_columns), random.randrange(table.num_rows)
    name, column = table.column_names[place], table.column(place)
    way = random.choice(("cell", "cell", "removed", "nulls", "text", "rows", "name", "numbers"))
    if way == "cell":
        strange: list[Any] = [None, "", "x", "../x", "\0", -1, 3, 1000, 2**31, b"", b"y" * 32]
        cells = column.to_pylist()
        cells[row] = random.choice([*strange, random.choice(cells)])
        try:
            changed = pa.array(cells)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            changed = pa.array([str(cell) for cell in cells])
        try:
            changed = changed.cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            way += " of another type"
        table = table.set_column(place, name, changed)
        way += f" {cells[row]!r}"
    elif way == "removed":
        table = table.drop_columns([name])
    elif way in ("nulls", "text", "numbers"):
        count = table.num_rows
        new = {"nulls": [None] * count, "text": ["x"] * count, "numbers": list(range(count))}[way]
        table = table.set_column(place, name, pa.array(new))
    elif way == "name":
        table = table.rename_columns([one + "x" * (one == name) for one in table.column_names])
    else:
        kept = random.choice((0, 1, row))
        table = random.choice(
            (table.slice(kept), table.slice(0, kept), pa.concat_tables([table] * 2))
        )
        way = f"{table.num_rows} rows"
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue(), f"{name}: {way}"


def damaged_tensors(data: bytes, random: Random) -> tuple[bytes, str]:
    """Return a safetensors file with its header changed, and what was done."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    if random.random() < 0.4:
        inside = json.loads(header)
        about, change = damaged_json(inside["__metadata__"]["declip_pipe"].encode(), random)
        inside["__metadata__"]["declip_pipe"] = about.decode(errors="replace")
        header = json.dumps(inside).encode("utf-8", "surrogatepass")
    else:
        header, change = damaged_json(header, random)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :], f"header: {change}"


def damaged_state(data: bytes, random: Random) -> tuple[bytes, str]:
    """Return a file of `torch.save` with a value in it changed, and what was done."""
    import torch

    state = torch.load(io.BytesIO(data), weights_only=True)
    place = random.choice([place for place in _places(state, ()) if place])
    holder, key = _at(state, place[:-1]), place[-1]
    found = holder[key]
    new = random.choice(
        (None, -1, 0, 2**70, "x", [], {}, float("nan"), float("inf"), torch.zeros(3), True)
    )
    if isinstance(found, torch.Tensor) and random.random() < 0.6:
        new = random.choice(
            (found.half(), found[None], found.reshape(-1)[:1], found * float("nan"), found + 1)
        )
    shown = f"{type(new).__name__} {list(new.shape) if isinstance(new, torch.Tensor) else new}"
    if isinstance(holder, dict) and random.random() < 0.2:
        del holder[key]
        shown = "removed"
    elif isinstance(holder, tuple):
        return _flipped(data, random)
    else:
        holder[key] = new
    target = io.BytesIO()
    torch.save(state, target)
    return target.getvalue(), f"{_shown(place)} is {shown}"


def _places(value: Any, above: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = [above]
    for key, each in inner:
        found += _places(each, (*above, key))
    return found


def _with(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    holder = _at(value, place[:-1])
    holder[place[-1]] = new
    return value


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _entry_changed(value: Any, place: tuple[Any, ...], random: Random) -> str:
    holder, key = _at(value, place[:-1]), place[-1]
    found = holder[key]
    if isinstance(found, bool):
        holder[key] = not found
        return f"{_shown(place)} is {not found}"
    if isinstance(found, int | float) and random.random() < 0.6:
        holder[key] = found + random.choice((-1, 1, 1000))
        return f"{_shown(place)} is {holder[key]} for {found}"
    if isinstance(found, str) and found and random.random() < 0.5:
        at = random.randrange(len(found))
        holder[key] = found[:at] + random.choice("0aZ_/.") + found[at + 1 :]
        return f"{_shown(place)} is {holder[key][:60]!r}"
    if isinstance(holder, list) and random.random() < 0.5:
        holder.append(found)
        return f"{_shown(place)} twice"
    if isinstance(holder, dict) and random.random() < 0.3:
        holder[f"{key}x"] = holder.pop(key)
        return f"{_shown(place)} is called {key}x"
    del holder[key]
    return f"{_shown(place)} removed"


def _shown(place: tuple[Any, ...]) -> str:
    return ".".join(map(str, place))[:80] or "the whole"


def damage_file(path: Path, random: Random, others: list[Path]) -> str:
    """Change a file of a folder as a whole, and say how.

    `others` are files of the same folder that it can be exchanged with.
    """
    ways = ["remove", "pipe", "folder", "loop", "zero device", "empty"]
    same = [one for one in others if one != path and one.read_bytes() != path.read_bytes()]
    if same:
        ways += ["exchange"] * 4 + ["copy"] * 2
    way = random.choice(ways)
    if way in ("exchange", "copy"):
        other = random.choice(same)
        mine, theirs = path.read_bytes(), other.read_bytes()
        rewrite(path, theirs)
        if way == "copy":
            return f"content of {other.name}"
        rewrite(other, mine)
        return f"exchanged with {other.parent.name}/{other.name}"
    path.unlink()
    if way == "pipe":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path)
    elif way == "zero device":
        path.symlink_to("/dev/zero")
    elif way == "empty":
        path.touch()
    return {"remove": "removed", "empty": "emptied"}.get(way, f"a {way} in its place")


def rewrite(path: Path, data: bytes) -> None:
    """Write a file in another's place, with its times, and not into what it is linked with."""
    times = path.stat()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def copied(source: Path, target: Path) -> Path:
    """Copy a file or a folder, with times."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    return target
