"""Configured fields of runs: which runs belong together, and what differs between the others."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_json
from declip_pipeline.store.identity import parts_of
from declip_pipeline.training.recipe import Recipe

T = TypeVar("T")

SEED = "seed"
TRAINING = ("train_on", "training_stores")
"""Fields that say what a run learned from."""

METHOD = ("decoder", "layer", "backbone", "pooling")
"""Fields that `method_of` puts into words."""

MEMBERS = "members"
"""Entry of an ensemble's configuration: those of its runs."""

MAPS = "maps"
"""Entry of the configuration of maps of another tool: their name."""

# Records of where things lie, and what is derived from other entries.
_NOT_CONFIGURED = ("run_sha256", "inputs", "images", "features", "datasets", "file")
_RENAMED = {"decoder_type": "decoder", "stores": "training_stores"}

RUN_FIELDS = (
    *("layer", "backbone", "fusion", "train_on", "training_dtype"),
    *(_RENAMED.get(field.name, field.name) for field in fields(Recipe)),
)
"""Fields of a run that tables can show."""

GeneratorKey = tuple[str | None, str]
"""Dataset and name of a generator; the dataset is "" for an alias, None where it is unknown."""

_ALIASED = ""


def configured(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every configured field of a run's config.yaml, its seed among them.

    Fields of the features are `backbone`, `weights`, `preprocessing` and `fusion`;
    `training_dtype` is the dtype of the stores that the run was trained from.
    """
    if MAPS in config:
        return {
            "decoder": config[MAPS],
            **{name: config[name] for name in ("folder", "maps_are", "maps_key", "train_on")},
        }
    if MEMBERS in config:
        return _configured_together(config)
    found = {
        _RENAMED.get(name, name): value
        for name, value in config.items()
        if name not in _NOT_CONFIGURED
    }
    features = config.get("features") or {}
    parts = parts_of(features) if features else []
    for name, key in (
        ("backbone", "backbone"),
        ("weights", "weights_sha256"),
        ("preprocessing", "preprocessing"),
    ):
        values = list({sha256_of_json(part[key]): part[key] for part in parts}.values())
        found[name] = values[0] if len(values) == 1 else values
    found["fusion"] = features.get("fusion")
    dtypes = list(dict.fromkeys(one.get("dtype") for one in config.get("inputs", ())))
    found["training_dtype"] = dtypes[0] if len(dtypes) == 1 else dtypes
    return found


def _configured_together(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an ensemble: what its members share, and lists of what differs.

    `ensemble` says which of the values that differ belong together, whatever their order. Values
    that are shared are no part of it, nor are the stores that the members learned from: ensembles
    of other training sets can be alike.
    """
    members = [configured(one) for one in config[MEMBERS]]
    found: dict[str, Any] = {}
    differing = []
    for name in dict.fromkeys(name for one in members for name in one):
        values = {sha256_of_json(one.get(name)): one.get(name) for one in members}
        found[name] = next(iter(values.values())) if len(values) == 1 else list(values.values())
        if len(values) > 1 and name != "training_stores":
            differing.append(name)
    seeds = {one.get(SEED) for one in members}
    if len(seeds) > 1:
        # Runs of other seeds are another ensemble, not another seed of it.
        found |= {SEED: None, "seeds": [one.get(SEED) for one in members]}
    found["ensemble"] = sorted(
        sha256_of_json({name: one.get(name) for name in differing}) for one in members
    )
    found["train_on"] = config["train_on"]
    return found


def is_no_run(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is that of several runs, or of maps of another tool."""
    return MEMBERS in config or MAPS in config


def method_of(config: Mapping[str, Any]) -> str:
    """Return a run's decoder and features in words: "conv-4 on layer3 of efficientnet-lite0".

    Of an ensemble: "mean of 3: ..., ..., ...", with each method once; of maps their name.
    """
    if MAPS in config:
        return str(config[MAPS])
    if MEMBERS in config:
        methods = dict.fromkeys(method_of(one) for one in config[MEMBERS])
        return f"mean of {len(config[MEMBERS])}: {', '.join(methods)}"
    parts = parts_of(config["features"])
    layers = " + ".join(f"{part['layer']} of {part['backbone']}" for part in parts)
    pooling = config.get("pooling")
    task = "" if pooling is None else f", detection by {pooling}"
    return f"{config['decoder_type']} on {layers}{task}"


def kind_of(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all that is configured but the seed.

    It seeds the resampling of seeds, so it must not depend on where a dataset or a store lies.
    """
    return sha256_of_json({key: v for key, v in configured(config).items() if key != SEED})


@dataclass(frozen=True)
class Group(Generic[T]):
    """Members with the same fields.

    Attributes:
        members: In their given order.
        fields: The fields that all members share.
        differing: Text of each field that differs from another group's.
    """

    members: tuple[T, ...]
    fields: dict[str, Any]
    differing: dict[str, str]

    def title(self, leaving_out: Collection[str] = ()) -> str:
        """Return what differs from the other groups: "layer layer3, learning_rate 0.01"."""
        shown = [f"{k} {v}" for k, v in self.differing.items() if k not in leaving_out]
        return ", ".join(shown)


def group_by_fields(
    members: Sequence[T],
    fields_of: Callable[[T], Mapping[str, Any]],
    *,
    ignored: Collection[str] = (SEED,),
) -> list[Group[T]]:
    """Group what differs in the ignored fields alone, in the order of first members.

    Every mean over runs is taken over the members of such a group, so that no mean mixes
    configurations.

    Args:
        members: Runs, or results of runs.
        fields_of: Returns a member's fields, plain JSON values.
        ignored: Fields that may differ within a group.
    """
    groups: dict[str, tuple[dict[str, Any], list[T]]] = {}
    for one in members:
        # A field that a run lacks is one that is not set.
        fields = {
            name: value
            for name, value in fields_of(one).items()
            if name not in ignored and value is not None
        }
        groups.setdefault(sha256_of_json(fields), (fields, []))[1].append(one)
    names = list(dict.fromkeys(name for fields, _ in groups.values() for name in fields))
    differing = [
        name
        for name in names
        if len({sha256_of_json(fields.get(name)) for fields, _ in groups.values()}) > 1
    ]
    unrecorded = Recipe.unrecorded()
    return [
        Group(
            tuple(some),
            fields,
            {name: field_text(fields.get(name, unrecorded.get(name))) for name in differing},
        )
        for fields, some in groups.values()
    ]


def field_text(value: Any) -> str:
    """Return a field's value as a title shows it; hashes and mappings are cut to 12 digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return sha256_of_json(dict(value))[:12]
    if isinstance(value, list | tuple):
        return "+".join(field_text(item) for item in value)
    text = str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text


def learned_generators(
    config: Mapping[str, Any],
    known: Mapping[str, tuple[str, Collection[str]]],
    aliases: Mapping[str, str],
) -> frozenset[GeneratorKey]:
    """Return the generators that a run learned, by dataset.

    Args:
        config: The run's config.yaml, which records them by dataset.
        known: Dataset and generators of stores, by identity: of a run that does not record its
            datasets, those of its training stores are taken from here.
        aliases: See `generator_key`.

    Returns:
        Keys of generators; the dataset is None where it is not known, and such a generator is in
        domain in every dataset.
    """
    if MEMBERS in config:
        return frozenset[GeneratorKey]().union(
            *(learned_generators(one, known, aliases) for one in config[MEMBERS])
        )
    names = config["train_on"]
    recorded = config.get("datasets")
    if recorded is None:
        stores = {sha256 for source in config.get("stores", ()) for sha256 in source}
        found = [known[sha256] for sha256 in stores if sha256 in known]
        recorded = {dataset: [n for n in names if n in own] for dataset, own in found}
        if len(found) < len(stores) or not stores:
            covered = {name for own in recorded.values() for name in own}
            recorded |= {None: [name for name in names if name not in covered]}
    return frozenset(
        generator_key(dataset, name, aliases) for dataset, own in recorded.items() for name in own
    )


def generator_key(dataset: str | None, generator: str, aliases: Mapping[str, str]) -> GeneratorKey:
    """Return what identifies a generator: its dataset and name, or its alias in all datasets.

    Args:
        dataset: Dataset that names it so; None where unknown.
        generator: Its name there.
        aliases: Names that stand for one generator: `{"ns": "navier-stokes"}` makes `ns` of any
            dataset and `navier-stokes` of any dataset the same. A name may be limited to a dataset
            as "DATASET/GENERATOR".
    """
    for name in (f"{dataset}/{generator}", generator):
        if name in aliases:
            return _ALIASED, aliases[name]
        if name in aliases.values():
            return _ALIASED, name
    return dataset, generator


def is_in_domain(
    learned: Collection[GeneratorKey], dataset: str, generator: str, aliases: Mapping[str, str]
) -> bool:
    """Return whether a generator of a dataset is among those that were learned."""
    return (
        generator_key(dataset, generator, aliases) in learned
        or generator_key(None, generator, aliases) in learned
    )


def parse_aliases(texts: Sequence[str]) -> dict[str, str]:
    """Parse aliases such as "ns=navier-stokes". Raises `InputError` for another form."""
    aliases: dict[str, str] = {}
    for text in texts:
        name, equals, other = (part.strip() for part in text.partition("="))
        if not (name and equals and other):
            raise InputError(
                f"alias {text!r}; expected NAME=NAME, two names of one generator, as in "
                "ns=navier-stokes"
            )
        if aliases.get(name, other) != other:
            raise InputError(f"alias {name!r} stands for {aliases[name]!r} and {other!r}")
        aliases[name] = other
    return aliases


def require_known_aliases(
    aliases: Mapping[str, str], generators: Collection[tuple[str | None, str]]
) -> None:
    """Raise `UnknownNameError` for an alias of which a name occurs nowhere.

    Args:
        aliases: See `generator_key`.
        generators: Dataset and name of each generator that was learned or is evaluated.
    """
    known = {name for _, name in generators}
    qualified = {f"{dataset}/{name}" for dataset, name in generators if dataset}
    for name in (*aliases, *aliases.values()):
        if name not in known and name not in qualified:
            raise UnknownNameError("generator in `aliases`", name, sorted(known))
