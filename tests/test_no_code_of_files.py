"""No reader of the program runs code of a file that a user gives."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = frozenset(
    """
    eval exec compile pickle.load pickle.loads pickle.Unpickler torch.jit.load torch.hub.load
    torch.package.PackageImporter yaml.load yaml.unsafe_load yaml.full_load marshal.loads
    marshal.load shelve.open joblib.load pandas.read_pickle pd.read_pickle dill.loads
    cloudpickle.loads runpy.run_path os.system os.popen
    """.split()  # noqa: SIM905
)
# Readers that are safe with one argument alone.
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
# Its table of names is what makes it safe; see `test_torchscript_that_runs_code_is_refused`.
ALLOWED = {("declip_pipeline/backbones/torchscript_file.py", "pickle.Unpickler")}


def faults_of(source: str, file: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            names, arguments = [ast.unparse(base) for base in node.bases], {}
        elif isinstance(node, ast.Call):
            names = [ast.unparse(node.func)]
            arguments = {one.arg: ast.unparse(one.value) for one in node.keywords}
        else:
            continue
        for name in names:
            if name in FORBIDDEN and (file, name) not in ALLOWED:
                yield f"{file}:{node.lineno}: {name}"
            argument, value = NEEDED.get(name, (None, None))
            if argument and arguments.get(argument) != str(value):
                yield f"{file}:{node.lineno}: {name} without {argument}={value}"
            if arguments.get("trust_remote_code") == "True":
                yield f"{file}:{node.lineno}: trust_remote_code"


@pytest.mark.parametrize("folder", ["declip_pipeline", "stages"])
def test_no_reader_runs_code_of_a_file(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [
        fault
        for file in files
        for fault in faults_of(file.read_text(), file.relative_to(ROOT).as_posix())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.jit.load(path)",
        "pickle.loads(content)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "class Mine(pickle.Unpickler): pass",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_each_reader_that_runs_code_is_found(source: str) -> None:
    assert len(list(faults_of(source, "file.py"))) == 1
