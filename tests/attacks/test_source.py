"""Our own source: nothing in it can turn data into code, and nobody hands a command to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("protocol", "client", "broker", "server", "worker")

MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "jsonpickle",
    "code",
    "codeop",
    "xmlrpc",
}
"""Whose very purpose is to make objects, or code, of bytes."""

NAMES = {"eval", "exec", "compile", "__import__", "breakpoint"}
"""Built-in ways from text to code."""

CALLS = {
    *("torch.load", "torch.jit.load", "torch.package", "torch.hub.load", "torch.compile", "torch.ops.load_library"),
    *(
        "numpy.load",
        "np.load",
        "numpy.fromregex",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "pandas.read_pickle",
    ),
    *("os.system", "os.popen", "os.exec", "os.execv", "os.execve", "os.spawnl", "os.spawnv", "pty.spawn"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("builtins.eval", "builtins.exec", "builtins.compile", "ctypes.CDLL", "ctypes.cdll.LoadLibrary"),
    *("types.CodeType", "runpy.run_path", "runpy.run_module", "tempfile.mktemp", "jinja2.Environment"),
}
"""Functions that run what they are given, or would read a pickle."""

SWITCHES = {"shell": False, "allow_pickle": False, "trust_remote_code": False, "weights_only": True}
"""Arguments that may only ever have this value, written out."""

IMPORTING = {"importlib.import_module", "importlib.util.spec_from_file_location", "importlib.util.module_from_spec"}
"""Functions that run a module; harmless where its name is written out."""

ALLOWED: dict[str, str] = {
    "worker/telepatch_worker/loaders.py": "the loader of a card file, which lies on the operator's own disk",
    "client/telepatch/__init__.py": "the modules of this very package, by a table",
    "client/telepatch/cli/check.py": "what the rooms that are installed look at, by their entry points",
    "client/telepatch/cli/discovery.py": "the commands of the rooms that are installed, by their entry points",
    "client/telepatch/cli/demo.py": "the studies of the repository, by a path on the command line",
    "server/telepatch_server/tether.py": "a part of the service becomes the command that it was started for",
}
"""Who may do one of these, and what it can be told."""


def sources() -> list[Path]:
    """Every module of ours."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` as text; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name of a module stands for, by its imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            first = [one.name.partition(".")[0] for one in node.names if not one.asname]
            found |= dict(zip(first, first, strict=True)) | {one.asname: one.name for one in node.names if one.asname}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return found


def whole_names(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every dotted name that is used, with aliases of imports spelled out."""
    known = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node)):
            head, dot, rest = name.partition(".")
            yield f"{known.get(head, head)}{dot}{rest}", node


def _set_so(node: ast.keyword, value: bool) -> bool:
    return isinstance(node.value, ast.Constant) and node.value.value is value


def _literal(args: list[ast.expr]) -> bool:
    return bool(args) and isinstance(args[0], ast.Constant)


def wrong_in(text: str) -> list[str]:
    """Everything in a module that turns data into code, with its line."""
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(one.name for one in node.names)]
        found += [f"{node.lineno}: imports {name}" for name in names if MODULES & set(name.split("."))]
        if isinstance(node, ast.keyword) and node.arg in SWITCHES and not _set_so(node, SWITCHES[node.arg]):
            found.append(f"{node.value.lineno}: {node.arg}")
    spelled = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _literal(node.args)}
    for name, node in whole_names(tree):
        runs = name in NAMES or any(name == call or name.startswith(f"{call}.") for call in CALLS)
        if runs or (name in IMPORTING and id(node) not in spelled):
            found.append(f"{getattr(node, 'lineno', 0)}: {name}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_of_ours_turns_data_into_code(room: str) -> None:
    paths = [path for path in sources() if path.relative_to(ROOT).parts[0] == room]
    assert paths
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in paths
        if str(path.relative_to(ROOT)) not in ALLOWED and (found := wrong_in(path.read_text()))
    }
    assert not wrong


def test_whoever_is_allowed_more_is_still_there_and_still_needs_it() -> None:
    for path in ALLOWED:
        found = wrong_in((ROOT / path).read_text())
        assert found, f"{path} runs nothing by name any more"
        assert not [one for one in found if not any(name in one for name in (*IMPORTING, "ctypes.CDLL", "os.execv"))]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import dill as json",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load as read\nread('x')",
        "import numpy as np\nnp.load('x')",
        "f = eval",
        "exec('x')",
        "compile('x', '', 'exec')",
        "__import__('os')",
        "import os\nos.system('x')",
        "from os import system\nsystem('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "run(x, shell=flag)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module as get\nget(name)",
        "load(x, allow_pickle=True)",
        "load(x, weights_only=False)",
        "f(trust_remote_code=True)",
        "import yaml\nyaml.load(x)",
        "from yaml import unsafe_load as load\nload(x)",
        "import os.path, marshal",
        "from multiprocessing import pickle as p",
        "import jinja2\njinja2.Environment()",
    ],
)
def test_this_very_test_would_see_it(text: str) -> None:
    if text == "from torch import load":
        text += "\nload(x)"
    assert wrong_in(text)
