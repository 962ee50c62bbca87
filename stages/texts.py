"""The names that a command line has for what the library calls by its parameters."""

# Of a field of the library, its flags, the first of which is said; others are --name-of-field.
FLAGS = {
    "layer": ("--feature-layer", "--layers"),
    "decoder_type": ("--decoder-type", "--decoders"),
    "seed": ("--seed", "--seeds"),
    "learning_rate": ("--learning-rate", "--lr"),
    "uncached": ("--no-cache",),
    "runs": ("-o", "--runs"),
}

# Of a field of the library, its key in a settings file, where it is another.
KEYS = {"layer": "layers", "decoder_type": "decoders", "seed": "seeds"}


def flags_of(name: str) -> tuple[str, ...]:
    """All flags of a field."""
    return FLAGS.get(name, (f"--{name.replace('_', '-')}",))


def flag_of(name: str) -> str:
    """The flag of a field that messages name."""
    return flags_of(name)[0]
