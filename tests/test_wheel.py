"""The wheel, installed elsewhere, gives a working `declip-pipe` in any folder."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment of its own with the wheel; its dependencies are this environment's.

    They are several GB, and what the wheel asks for is what is installed here.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # Behind the environment's own packages, so that the wheel's come first.
    (Path(own) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_it_holds_both_packages_the_configs_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"declip_pipeline/__init__.py", "stages/app.py", "stages/extract.slurm"}
    assert expected | {"stages/configs/demo.yaml", "stages/configs/slurm.yaml"} <= names
    templates = {f"declip_pipeline/reports/page/templates/page.{end}" for end in ("css", "js")}
    assert templates | {"declip_pipeline/reports/page/templates/page.html.j2"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "configs/")) for name in names)


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed / "bin" / "declip-pipe", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_help_works_from_another_folder(installed, tmp_path):
    outcome = run(installed, tmp_path, "--help")
    assert outcome.returncode == 0, outcome.stderr
    for command in ("extract", "train", "evaluate", "predict", "demo"):
        assert command in outcome.stdout


def test_it_runs_its_own_code_and_configs(installed, tmp_path):
    code = (
        "import declip_pipeline, stages.settings as s;"
        "print(declip_pipeline.__file__);"
        "print(s.read_settings(s.packaged_config('demo.yaml'), s.DemoSettings).backbones[-1].arch)"
    )
    found = subprocess.run(
        [installed / "bin" / "python", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert Path(found[0]).is_relative_to(installed)
    assert found[1] == "efficientnet-lite0"


@pytest.mark.slow
def test_an_error_is_one_line_there_too(installed, tmp_path):
    outcome = run(installed, tmp_path, "extract", "nowhere", "--arch", "efficientnet-lite0")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("declip-pipe: nowhere does not exist")
    assert len(outcome.stderr.splitlines()) == 1
