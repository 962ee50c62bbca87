"""Catalogue of the files in benchmarks/results: title, command and description of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A file of results: its title, the command that writes it, and what it says."""

    title: str
    command: str
    about: str


MEASUREMENTS = {
    "store": Measurement(
        "Reading and writing a store",
        "python benchmarks/store.py",
        "Shapes of one layer of ViT-L/14 in float16, contestants in turns, medians.",
    ),
    "store_breakdown": Measurement(
        "What each check of a store costs",
        "python benchmarks/store.py --breakdown",
        "One shard, CPU time of the thread that works, the best and the median of all turns.",
    ),
    "report_page": Measurement(
        "A report in the browser",
        "python benchmarks/report_page.py",
        "A report of a small demo set, opened from the disk by a Chromium that has just started, "
        "medians. Ready is when every image is decoded and drawn. The time of writing has the maps "
        "in it, which the decoders compute from the store.",
    ),
    "report_charts": Measurement(
        "Ways to draw a report's charts",
        "python benchmarks/report_page.py --part charts",
        "One chart of four lines over 24 layers, in a page of its own with whatever draws it "
        "inside, opened as the report is.",
    ),
    "scale": Measurement(
        "A store of a million samples",
        "python benchmarks/scale.py",
        "Opening, selecting and planning with the records of so many samples.",
    ),
    "evaluate_memory": Measurement(
        "Memory of an evaluation",
        "python benchmarks/evaluate_memory.py",
        "What a process held at most beyond one that evaluates a single image of 256x256 pixels. "
        "Values of fake pixels that differ are thresholds: random maps, whose values mostly do, "
        "and masks that are fake everywhere take the most.",
    ),
    "dtypes_features": Measurement(
        "Stored dtypes: size, speed and error of features",
        "python benchmarks/dtypes.py",
        "Against float32; the error is the length of the difference over that of the features.",
    ),
    "dtypes_iou": Measurement(
        "Stored dtypes: change in IoU",
        "python benchmarks/dtypes.py",
        "Change in IoU (points) of a decoder trained on float32 that reads the dtype, mean and "
        "largest over seeds; of decoders trained and tested on the dtype; and the spread of the "
        "seeds themselves.",
    ),
    "codecs": Measurement(
        "Lossless codecs",
        "python benchmarks/codecs.py",
        "Range over the layers, one chunk an image; size as a share of the uncompressed.",
    ),
    "extract_ViT-B-32": Measurement(
        "Extraction beside the bare forward pass, ViT-B/32",
        "python benchmarks/extract.py",
        "One layer, random weights; seconds of each stage overlap.",
    ),
    "extract_ViT-L-14": Measurement(
        "Extraction beside the bare forward pass, ViT-L/14",
        "python benchmarks/extract.py --model ViT-L-14 --images 64",
        "One layer, random weights; seconds of each stage overlap.",
    ),
    "extract_dinov2-vit-s14": Measurement(
        "Extraction beside the bare forward pass, DINOv2 ViT-S/14",
        "python benchmarks/extract.py --model dinov2-vit-s14 --images 128",
        "One layer; seconds of each stage overlap.",
    ),
    "predict_rates": Measurement(
        "Prediction beside the bare forward pass",
        "python benchmarks/predict.py",
        "JPEG files of 512x512 pixels, a linear decoder; bare: backbone and decoder on batches "
        "that are tensors already. Medians of ratios within a round, and their range; the ratio of "
        "processor time is what a machine that does nothing else would come near to.",
    ),
    "encoding": Measurement(
        "Encoders of a prediction's files",
        "python benchmarks/encoding.py",
        "One photograph of 512x512, a smooth map and its mask; processor time.",
    ),
    "predict_tiles": Measurement(
        "Prediction of a large image in tiles",
        "python benchmarks/predict.py",
        "One image in windows of 224 pixels that overlap by a quarter; bare: backbone and decoder "
        "on as many windows.",
    ),
    "resolution": Measurement(
        "Resolution: large images whole and in tiles",
        "python benchmarks/resolution.py --folder DIR",
        "The demo's large set: canvases of 2 to 12 megapixels, of which 0.05% to 1% is forged. "
        "Each canvas is there with one forgery, by four generators in turn, so all were learned. "
        "The same images, layers, decoder, seeds and number of steps in all rows. IoU at the "
        "images' own size, with its interval over scenes (canvases, which share photographs) and "
        "seeds, and how many times that of the whole image at 224 pixels. A region is a connected "
        "part of the mask; recall is the share of regions of which at least half of the pixels are "
        "called fake. Prediction is from file to map; growth is the largest image's seconds a "
        "megapixel over the smallest one's.",
    ),
    "resolution_choice": Measurement(
        "Decoders for the comparison of resolutions",
        "python benchmarks/resolution.py --folder DIR --choose",
        "Best validation IoU of the first seed, by what the backbone sees: on whole images at the "
        "decoder's 256x256, on tiles of all of an image's pixels. No test image is looked at.",
    ),
    "predict_memory": Measurement(
        "Memory of prediction",
        "python benchmarks/predict.py",
        "Peaks of processes of their own, with the image itself as backbone; bytes a pixel above "
        "the smallest image.",
    ),
    "engines": Measurement(
        "Engines of a ViT on a CPU",
        "python benchmarks/engines.py",
        "Forward passes as deep as one layer. The difference is the largest from PyTorch's "
        "features, over their range. ViT-L/14 has random weights.",
    ),
    "train_cache": Measurement(
        "An epoch with and without a cache",
        "python benchmarks/train.py --images 32 --batch-size 8",
        "Shapes of ViT-L/14, validation included.",
    ),
    "train_bare": Measurement(
        "Training beside the bare decoder",
        "python benchmarks/train.py --images 32 --batch-size 8",
        "Bare: steps of the decoder on tensors that are in memory already.",
    ),
    "train_ablation": Measurement(
        "Linear decoders on 24 layers",
        "python benchmarks/train.py --images 32 --batch-size 8",
        "Seconds for the whole grid.",
    ),
    "light_decoders": Measurement(
        "Parts of light decoders",
        "python benchmarks/light_decoders.py --part parts",
        "Operations that a linear decoder's step is made of.",
    ),
    "light_steps": Measurement(
        "Steps of light decoders",
        "python benchmarks/light_decoders.py --part steps",
        "Training steps on layers of 16x16x1024 beside one of conv-4, in batches of 8 and the "
        "precision that `auto` takes.",
    ),
    "choices": Measurement(
        "Choices of the light decoders and of their recipe",
        "python benchmarks/choices.py --folder DIR --train-on telea texture-copy",
        "On a demo set of another seed than the study's: trained on single generators, evaluated "
        "on photographs that were held out, forged by all four; no test split is read. Each "
        "candidate differs from the recipe in the settings by what its name says. `score` is the "
        "mean of ID and OOD; `chosen without` names the generators that can be left out, neither "
        "learned nor evaluated, with the candidate the best of its part.",
    ),
    "recipes": Measurement(
        "Recipes",
        "python benchmarks/recipes.py --folder DIR",
        "Best validation IoU in percent, by decoder and number of training images, one training a "
        "cell. auto: with no option but store, layer and decoder, in the batches and epochs and at "
        "the highest learning rate of the columns before, which took so many seconds on a machine "
        "that others used. The others change its learning rate or its epochs, or are the demo's "
        "and the paper's for as many epochs. below: points that auto lies below the best of its "
        "row. The demo set with fakes of all four generators, and its large set in tiles, of which "
        "those that are learned are counted; features of EfficientNet-Lite0, conv-4 with widths "
        "of 32, 16, 16 and 16.",
    ),
    "bounds_grid": Measurement(
        "What the grid bounds",
        "python benchmarks/bounds.py --folder DIR --part grid",
        "Masks of the demo's test split as means over the positions of a grid, enlarged to 256x256 "
        "and compared with the masks themselves.",
    ),
    "bounds_data": Measurement(
        "What the training images bound",
        "python benchmarks/bounds.py --folder DIR --part data",
        "A light decoder trained on one generator, on crops of more or fewer photographs, in "
        "domain: on other photographs of the split valid (two) and of the split test (four).",
    ),
    "bounds_generators": Measurement(
        "What the generators bound",
        "python benchmarks/bounds.py --folder DIR --part generators",
        "The discriminant of the study on the ViT's odd layers at 224 pixels, trained on every "
        "choice of one to four of the demo's generators and tested on each: on all images of each, "
        "or on as many in all as one has.",
    ),
    "activations": Measurement(
        "Standardised features",
        "python benchmarks/activations.py",
        "Deviations of the channels of DINOv2 ViT-S/14, and magnitudes of its features once they "
        "are standardised by these, in deviations.",
    ),
    "robustness_mutations": Measurement(
        "Damaged inputs",
        "python benchmarks/robustness.py --part mutations",
        "Cases by kind of input and by outcome; nothing should stand right of the refusals that "
        "are clear. Bytes, values, files, folders and command lines are changed at random; what is "
        "a right result is said in the functions of the kinds.",
    ),
    "robustness_kills": Measurement(
        "Killed commands",
        "python benchmarks/robustness.py --part kills",
        "Each run is killed at a random instant, then the same command runs to its end: how many "
        "ended otherwise than with exit code 0, and left other files than an undisturbed run.",
    ),
    "metrics": Measurement(
        "Localization metrics",
        "python benchmarks/metrics.py",
        "All metrics and image scores of an image of 256x256 pixels, as `evaluate` computes them. "
        "SciPy and scikit-learn compute IoU, both best F1, AP, AUC, MCC, precision, recall and the "
        "mean of the highest values. Processor time is that of both cores together.",
    ),
}
