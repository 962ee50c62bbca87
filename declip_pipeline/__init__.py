"""DeCLIP: localize manipulated pixels with decoders on the features of frozen backbones.

Features are extracted once into a store, and every decoder is trained from the store:

    import declip_pipeline as dp

    dataset = dp.open_dataset("DATA")
    store = dp.extract(dataset, "efficientnet-lite0", layers=["layer2", "layer3"])
    run = dp.train(store, layer="layer3", decoder="conv-4")
    evaluation = dp.evaluate(run, store, split="test")
    probability = run.predictor()("suspicious.jpg")

Nothing is imported before a name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from declip_pipeline.backbones.backbone import Backbone
    from declip_pipeline.backbones.registry import open_backbone
    from declip_pipeline.datasets.dataset import Dataset
    from declip_pipeline.datasets.opening import open_dataset
    from declip_pipeline.errors import DeclipError
    from declip_pipeline.evaluation.compare import Comparison, compare
    from declip_pipeline.evaluation.ensemble import Ensemble
    from declip_pipeline.evaluation.evaluate import evaluate
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_folder import MapFolder
    from declip_pipeline.extraction.extract import extract
    from declip_pipeline.features import FeatureShape
    from declip_pipeline.feeding.torch_dataset import StoreDataset
    from declip_pipeline.metrics.regions import without_small_regions
    from declip_pipeline.prediction.predict import Predictions, predict, predict_maps
    from declip_pipeline.store.reader import Store, open_store
    from declip_pipeline.training.predictor import Predictor
    from declip_pipeline.training.recipe import Recipe
    from declip_pipeline.training.run import Run, open_run
    from declip_pipeline.training.runs import train

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Comparison",
    "Dataset",
    "DeclipError",
    "Ensemble",
    "Evaluation",
    "FeatureShape",
    "MapFolder",
    "Predictions",
    "Predictor",
    "Recipe",
    "Run",
    "Store",
    "StoreDataset",
    "__version__",
    "compare",
    "evaluate",
    "extract",
    "open_backbone",
    "open_dataset",
    "open_run",
    "open_store",
    "predict",
    "predict_maps",
    "train",
    "without_small_regions",
]

_MODULES = {
    "Backbone": "backbones.backbone",
    "Comparison": "evaluation.compare",
    "Dataset": "datasets.dataset",
    "DeclipError": "errors",
    "Ensemble": "evaluation.ensemble",
    "Evaluation": "evaluation.evaluation",
    "FeatureShape": "features",
    "MapFolder": "evaluation.map_folder",
    "Predictions": "prediction.predict",
    "Predictor": "training.predictor",
    "Recipe": "training.recipe",
    "Run": "training.run",
    "Store": "store.reader",
    "StoreDataset": "feeding.torch_dataset",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "extract": "extraction.extract",
    "open_backbone": "backbones.registry",
    "open_dataset": "datasets.opening",
    "open_run": "training.run",
    "open_store": "store.reader",
    "predict": "prediction.predict",
    "predict_maps": "prediction.predict",
    "train": "training.runs",
    "without_small_regions": "metrics.regions",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
