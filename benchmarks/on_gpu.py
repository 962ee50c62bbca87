"""Everything that needs a CUDA device, in one call: parity, then extraction and training.

python benchmarks/on_gpu.py [--results DIR] [--images 2048]

Runs the tests of parity on the device, then benchmarks/extract.py for one layer (beside plain
loops), four and all 24, in float32 and bfloat16, and in bfloat16 compiled; then benchmarks/train.py
beside the bare decoder, beside a loop without a cache, and 24 layers in one pass, all with the
shapes of ViT-L/14. Each part leaves its
JSON file in benchmarks/results, and a copy in DIR, as soon as it is done, so that a call that is
cut short keeps what it has. Exit code 1 where a part failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "pytest": "pytest",
    "open_clip": "open_clip_torch",
    "timm": "timm",
    "zarr": "zarr",
    "awscrt": "awscrt",
    "numcodecs": "numcodecs",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "safetensors": "safetensors",
    "pyarrow": "pyarrow",
    "typer": "typer",
    "rich": "rich",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
}
PARITY = [
    "tests/backbones/test_golden_backbones.py",
    "tests/decoders/test_golden_decoders.py",
    "tests/extraction/test_feature_computing.py",
]
# Pictures of an epoch as a share of --images.
TRAINING = {"bare": (["--compile"], 0.25), "cache": ([], 0.125), "ablation": ([], 0.25)}
BOTH = ["--precision", "float32", "bfloat16"]
COMPILED = ["--precision", "bfloat16", "--compile", "--no-loops"]
# What matters most comes first. A quarter of the pictures do where every layer is written: 12.6 MB
# a picture go to the disk.
PARTS = {
    "extract_gpu_one": (["--layers", "one", *BOTH], 1.0),
    "extract_gpu_compiled": (["--layers", "one", *COMPILED], 1.0),
    "extract_gpu_four": (["--layers", "four", "--no-loops", *BOTH], 1.0),
    "extract_gpu_all": (["--layers", "all", "--no-loops", *BOTH], 0.25),
    "extract_gpu_all_compiled": (["--layers", "all", *COMPILED], 0.25),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=2048)
    arguments.add_argument("--results", type=Path, default=None)
    options = arguments.parse_args()
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.exit(f"missing here: {', '.join(missing)}; pip install {' '.join(missing)}")
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device is here; this script is for a machine that has one")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    codes = {"gpu_parity": parity(torch.cuda.get_device_name(), torch.__version__)}
    keep("gpu_parity", options.results)
    for name, (own, share) in PARTS.items():
        images = max(64, round(options.images * share))
        common = ["--device", "cuda", "--model", "ViT-L-14", "--batch-size", "64", "--name", name]
        script = str(Path(__file__).with_name("extract.py"))
        codes[name] = run([script, *common, *own, "--images", str(images)]).returncode
        keep(name, options.results)
    for part, (own, share) in TRAINING.items():
        images = str(max(64, round(options.images * share)))
        sizes = ["--images", images, "--ablation-images", images, "--batch-size", "64"]
        common = ["--device", "cuda", "--name", "train_gpu", "--parts", part]
        script = str(Path(__file__).with_name("train.py"))
        codes[f"train_gpu_{part}"] = run([script, *common, *sizes, *own]).returncode
        keep(f"train_gpu_{part}", options.results)
    print(codes)
    sys.exit(any(codes.values()))


def run(arguments: list[str], **options: bool) -> "subprocess.CompletedProcess[str]":
    """Run a program of this interpreter, with the project to be found where it lies."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=False, text=True, **options
    )


def parity(device: str, torch_version: str) -> int:
    """Run the tests of parity on the device; returns pytest's exit code."""
    done = run(["-m", "pytest", "-q", "--device", "cuda", *PARITY], capture_output=True)
    print(done.stdout, done.stderr, flush=True)
    outcome = {
        "device": device,
        "torch": torch_version,
        "tests": PARITY,
        "exit_code": done.returncode,
        "last_line": done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "",
    }
    (RESULTS / "gpu_parity.json").write_text(json.dumps(outcome, indent=2) + "\n")
    return done.returncode


def keep(name: str, folder: Path | None) -> None:
    """Copy a part's results to where they are wanted."""
    if folder is not None and (RESULTS / f"{name}.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(RESULTS / f"{name}.json", folder)


if __name__ == "__main__":
    main()
