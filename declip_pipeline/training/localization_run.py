"""A training as users ask for it: stores, a layer, a decoder, and the generators to learn."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.initialization import InitializationScheme
from declip_pipeline.errors import InputError
from declip_pipeline.fingerprint import sha256_of_json
from declip_pipeline.folder_names import folder_name
from declip_pipeline.store.identity import require_same_features
from declip_pipeline.store.reader import Store
from declip_pipeline.training.feeds import Feeds
from declip_pipeline.training.run_folder import RunFolder
from declip_pipeline.training.train import Epoch, train_decoder


def localization_run(
    stores: Sequence[Store],
    runs: Path,
    *,
    layer: str,
    decoder_type: str,
    train_on: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    initialization: InitializationScheme = "paper",
    seed: int = 0,
    epochs: int = 400,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    patience: int = 5,
    device: torch.device,
    feeds: Feeds | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> RunFolder:
    """Train a decoder on the fakes of the stores' `train` split, judged on `valid`.

    `train_on` names the generators to learn, all of them where None. The run's folder under `runs`
    is named by what the run is, so the same call finds its finished or unfinished self again.
    `feeds` are those of the same stores, where several trainings share them.

    Raises `UnknownNameError` for a layer, decoder or generator that is not there, `InputError` for
    stores without the two splits and for a damaged run, `IdentityMismatchError` when the stores
    hold different features, `RunBusyError` while another process trains it, `TrainingError`.
    """
    if not stores:
        raise InputError("no store was given; expected at least one that `extract` printed")
    if len({store.identity.sha256 for store in stores}) < len(stores):
        raise InputError("a store was given twice; give each once, or its pictures count double")
    features = stores[0].feature_identity(layer)
    for store in stores[1:]:
        require_same_features(
            features,
            store.feature_identity(layer),
            decoder=f"the run with {stores[0].location}",
            features=store.location,
        )
    with torch.device("meta"):  # names and widths are checked, no memory is taken
        build_decoder(decoder_type, stores[0].layers[layer], widths=widths)
    generators = sorted(set(train_on or {name for store in stores for name in store.generators}))
    identity = {
        "layer": layer,
        "decoder_type": decoder_type,
        "widths": list(widths) if widths else None,
        "train_on": generators,
        "initialization": initialization,
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "features": features,
        "dtype": stores[0].identity.dtype,
        "stores": [store.identity.sha256 for store in stores],
    }
    sha256 = sha256_of_json(identity)
    learned = "all" if train_on is None else folder_name("+".join(generators))
    run = RunFolder(runs / f"{decoder_type}_{layer}_{learned}_seed{seed}_{sha256[:12]}")
    if not run.is_finished:
        train_feed, valid_feed = (feeds or Feeds(stores, device)).get(layer, generators)
        run.begin({**identity, "provenance": stores[0].provenance}, sha256)
        with run.exclusively():
            # Another process may have come to the end of it meanwhile.
            if not run.is_finished:
                train_decoder(
                    run,
                    train_feed,
                    valid_feed,
                    features,
                    decoder_type=decoder_type,
                    widths=widths,
                    initialization=initialization,
                    seed=seed,
                    epochs=epochs,
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    patience=patience,
                    on_epoch=on_epoch,
                )
    return run
