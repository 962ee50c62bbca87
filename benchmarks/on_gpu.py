"""Everything that needs a CUDA device, in one call: parity, then extraction with ViT-L/14.

python benchmarks/on_gpu.py [--images 2048] [--results DIR]

Runs the tests of parity on the device and prints what pytest says, then benchmarks/extract.py for
one layer, four and all 24, in float32 and bfloat16, and in bfloat16 compiled. Leaves
gpu_parity.json, extract_gpu.json and extract_gpu_compiled.json in benchmarks/results, and copies
of them in DIR. Takes about eight minutes on an H200. Exit code 1 where a part failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from reporting import RESULTS

ROOT = Path(__file__).parents[1]
PARITY = [
    "tests/backbones/test_golden_backbones.py",
    "tests/decoders/test_golden_decoders.py",
    "tests/extraction/test_feature_computing.py",
]
EXTRACTION = ["--device", "cuda", "--model", "ViT-L-14", "--layers", "one,four,all"]
RUNS = {
    "extract_gpu": ["--precision", "float32", "bfloat16"],
    "extract_gpu_compiled": ["--precision", "bfloat16", "--compile", "--no-loops"],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=2048)
    arguments.add_argument("--results", type=Path, default=None)
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is here; this script is for a machine that has one")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    codes = {"gpu_parity": parity()}
    for name, own in RUNS.items():
        more = ["--images", str(options.images), "--batch-size", "64", "--name", name]
        script = Path(__file__).with_name("extract.py")
        command = [sys.executable, script, *EXTRACTION, *own, *more]
        codes[name] = subprocess.run(command, cwd=ROOT, check=False).returncode
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        for name in codes:
            if (RESULTS / f"{name}.json").exists():
                shutil.copy(RESULTS / f"{name}.json", options.results)
    print(codes)
    sys.exit(any(codes.values()))


def parity() -> int:
    """Run the tests of parity on the device; returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "--device", "cuda", *PARITY]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    outcome = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tests": PARITY,
        "exit_code": done.returncode,
        "last_line": done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "",
    }
    (RESULTS / "gpu_parity.json").write_text(json.dumps(outcome, indent=2) + "\n")
    return done.returncode


if __name__ == "__main__":
    main()
