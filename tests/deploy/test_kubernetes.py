"""The Kubernetes objects, rendered by kubectl and held against Kubernetes' schemas, each other, and what they run."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import kubernetes_validate
import pytest
from tests.deploy.rendered import KUBERNETES, OVERLAYS, Object, of_kind, overlay, pods, references, render, selected
from tests.repo.test_deployment import understands, words_of

from telepatch_worker.cards import read_cards
from telepatch_worker.settings import Settings

METRICS = (KUBERNETES.parents[1] / "docs" / "metrics.md").read_text()
RUNBOOK = (KUBERNETES.parent / "README.md").read_text()
CUSTOM = {"ScaledObject"}
"""Kinds that Kubernetes itself does not know."""

every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def container(pod: Object) -> Object:
    """The only one."""
    [found] = pod["spec"]["containers"]
    return dict(found)


def workers(name: str) -> dict[str, Object]:
    """The workers' pods of an overlay."""
    return {made: pod for made, pod in pods(overlay(name)).items() if made.startswith("worker-")}


@every_overlay
def test_every_object_follows_the_schema_of_its_kind(name: str) -> None:
    for one in overlay(name):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@every_overlay
def test_every_object_is_in_the_namespace(name: str) -> None:
    spaces = {one["metadata"].get("namespace") for one in overlay(name) if one["kind"] != "Namespace"}
    assert spaces == {"telepatch"}


@every_overlay
def test_what_a_pod_refers_to_is_rendered_or_made_by_the_run_book(name: str) -> None:
    maps = of_kind(overlay(name), "ConfigMap")
    claims = of_kind(overlay(name), "PersistentVolumeClaim")
    for pod in pods(overlay(name)).values():
        for kind, wanted, key in references(pod):
            if kind == "ConfigMap":
                assert wanted in maps
            else:
                assert f"kubectl -n telepatch create secret generic {wanted} " in RUNBOOK
                assert key is None or f"{key}=" in RUNBOOK
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        mounts = {mount["name"] for mount in container(pod)["volumeMounts"]}
        declared = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        assert mounts - declared <= {"data"}


@every_overlay
def test_no_secret_is_written_into_an_object(name: str) -> None:
    assert not of_kind(overlay(name), "Secret")
    for pod in pods(overlay(name)).values():
        for variable in container(pod).get("env", []):
            if re.search("TOKEN|PASSWORD|REDIS_URL|AUTH", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable


@every_overlay
def test_a_service_a_budget_and_a_deployment_select_pods_that_there_are(name: str) -> None:
    labels = {made: pod["metadata"]["labels"] for made, pod in pods(overlay(name)).items()}
    for service, one in of_kind(overlay(name), "Service").items():
        found = [made for made, held in labels.items() if selected({"matchLabels": one["spec"]["selector"]}, held)]
        assert found == [service]
    for one in of_kind(overlay(name), "PodDisruptionBudget").values():
        assert len([made for made, held in labels.items() if selected(one["spec"]["selector"], held)]) == 1
    for made, one in (of_kind(overlay(name), "Deployment") | of_kind(overlay(name), "StatefulSet")).items():
        assert [other for other, held in labels.items() if selected(one["spec"]["selector"], held)] == [made]


@every_overlay
def test_every_part_but_the_queue_has_a_budget(name: str) -> None:
    assert set(of_kind(overlay(name), "PodDisruptionBudget")) == set(pods(overlay(name))) - {"valkey"}


@every_overlay
def test_only_gateways_and_workers_reach_the_queue(name: str) -> None:
    policies = of_kind(overlay(name), "NetworkPolicy").values()
    assert any(one["spec"]["podSelector"] == {} and not one["spec"].get("ingress") for one in policies)
    queue = pods(overlay(name))["valkey"]["metadata"]["labels"]
    let_in = [
        peer
        for one in policies
        if selected(one["spec"]["podSelector"], queue)
        for rule in one["spec"].get("ingress", [])
        for peer in rule["from"]
    ]
    assert let_in
    assert all(set(peer) == {"podSelector"} for peer in let_in)
    reached = {
        made
        for made, pod in pods(overlay(name)).items()
        if any(selected(peer["podSelector"], pod["metadata"]["labels"]) for peer in let_in)
    }
    assert reached == {"gateway", *workers(name)}


@every_overlay
def test_workers_may_reach_what_they_are_told_to_use(name: str) -> None:
    [policy] = [one for made, one in of_kind(overlay(name), "NetworkPolicy").items() if made == "worker"]
    found = pods(overlay(name))
    allowed = [peer["podSelector"] for rule in policy["spec"]["egress"] for peer in rule.get("to", [])]
    for made in ("valkey", "gateway"):
        assert any(selected(one, found[made]["metadata"]["labels"]) for one in allowed)
    for pod in workers(name).values():
        assert selected(policy["spec"]["podSelector"], pod["metadata"]["labels"])
        [url] = [one["value"] for one in container(pod)["env"] if one["name"] == "TELEPATCH_GATEWAY_URL"]
        assert url == "http://gateway:8000"


@every_overlay
def test_images_carry_the_version_of_the_package(name: str) -> None:
    for made, pod in pods(overlay(name)).items():
        image = container(pod)["image"]
        if made != "valkey":
            assert re.fullmatch(rf"telepatch-(gateway|worker):{re.escape(version('telepatch'))}(-cpu|-gpu)?", image)


def test_the_queue_is_the_one_of_the_compose_file() -> None:
    from tests.repo.test_deployment import COMPOSE

    queue = container(pods(overlay("cpu"))["valkey"])
    assert queue["image"] == COMPOSE["services"]["queue"]["image"]
    words = queue["args"]
    assert (words[words.index("--appendonly") + 1], words[words.index("--maxmemory-policy") + 1]) == (
        "yes",
        "noeviction",
    )
    [claim] = of_kind(overlay("cpu"), "StatefulSet")["valkey"]["spec"]["volumeClaimTemplates"]
    [mount] = [one for one in queue["volumeMounts"] if one["name"] == claim["metadata"]["name"]]
    assert words[words.index("--dir") + 1] == mount["mountPath"]


@every_overlay
def test_parts_start_commands_that_exist_without_root(name: str) -> None:
    for made, pod in pods(overlay(name)).items():
        security = container(pod)["securityContext"] | pod["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        if made != "valkey":
            assert understands(*words_of(container(pod)["args"]))


@every_overlay
def test_variables_of_the_parts_are_settings(name: str) -> None:
    from telepatch_server.settings import Settings as OfTheGateway

    for made, pod in pods(overlay(name)).items():
        known = OfTheGateway if made == "gateway" else Settings
        if made != "valkey":
            for one in container(pod)["env"]:
                assert one["name"] == "HOME" or one["name"].removeprefix("TELEPATCH_").lower() in known.model_fields
    for one in of_kind(overlay(name), "ConfigMap").values():
        assert {key.removeprefix("TELEPATCH_").lower() for key in one["data"]} <= set(Settings.model_fields)


@every_overlay
def test_a_part_is_given_longer_to_end_than_it_takes(name: str) -> None:
    for made, pod in pods(overlay(name)).items():
        if made in workers(name):
            assert pod["spec"]["terminationGracePeriodSeconds"] > Settings.model_fields["worker_stop_seconds"].default


@every_overlay
def test_a_gateway_is_asked_whether_it_takes_jobs_not_whether_somebody_runs_them(name: str) -> None:
    probe = container(pods(overlay(name))["gateway"])["readinessProbe"]["httpGet"]["path"]
    assert probe == "/readyz?workers=false"


def test_what_people_reach_is_named_and_metrics_are_not_among_it() -> None:
    [ingress] = of_kind(overlay("cpu"), "Ingress").values()
    paths = [path["path"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert "/v1" in paths
    assert not any("metrics".startswith(path.strip("/")) for path in paths)
    assert {host for one in ingress["spec"]["tls"] for host in one["hosts"]} == {
        rule["host"] for rule in ingress["spec"]["rules"]
    }


def test_every_model_that_has_a_folder_has_a_card_and_as_many_ranks_as_it_says(tmp_path: Path) -> None:
    cards = read_cards(KUBERNETES.parents[1] / "models")
    for folder in (KUBERNETES / "models").iterdir():
        objects = render(folder)
        [settings] = of_kind(objects, "ConfigMap").values()
        [(made, pod)] = pods(objects).items()
        card = cards[settings["data"]["TELEPATCH_MODEL"]]
        assert made == f"worker-{card.id}" == f"worker-{folder.name}"
        assert pod["metadata"]["labels"]["telepatch/model"] == card.id
        command = container(pod).get("command", [])
        assert (command[command.index("--nproc-per-node") + 1] if command else "1") == str(card.tp_size)


def test_on_gpus_every_worker_asks_for_one_and_waits_for_the_old_one_to_leave_it() -> None:
    for made, pod in workers("gpu").items():
        assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert of_kind(overlay("gpu"), "Deployment")[made]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    for pod in workers("cpu").values():
        assert "nvidia.com/gpu" not in container(pod)["resources"]["limits"]


def test_workers_are_scaled_by_a_metric_that_the_gateway_has_of_a_model_that_is_served() -> None:
    [scaled] = of_kind(overlay("autoscale"), "ScaledObject").values()
    target = scaled["spec"]["scaleTargetRef"]["name"]
    assert target in workers("autoscale")
    [trigger] = scaled["spec"]["triggers"]
    model = workers("autoscale")[target]["metadata"]["labels"]["telepatch/model"]
    assert trigger["metadata"]["query"] == f'max(telepatch_jobs{{model="{model}",state="queued"}})'
    assert "| `telepatch_jobs` | gauge | `model` `state` |" in METRICS
    read = {one["name"]: one.get("value") for one in container(pods(overlay("autoscale"))["gateway"])["env"]}
    assert read["TELEPATCH_GATEWAY_METRICS"] == "open"
    assert scaled["spec"]["minReplicaCount"] >= 1


def test_a_card_of_ones_own_is_added_as_the_run_book_says(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    [commands] = re.findall(r"<!-- add-a-model -->\n\n((?:    .*\n)+)", RUNBOOK)
    script = "\n".join(line[4:] for line in commands.splitlines()).replace("deploy/kubernetes", "kubernetes")
    script = script.replace("my-model.toml", str(KUBERNETES.parents[1] / "models" / "gpt2-random.toml"))
    told = subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    objects = render(tmp_path / "kubernetes" / "overlays" / "cpu")
    pod = pods(objects)["worker-my-model"]
    maps = of_kind(objects, "ConfigMap")
    needed = {wanted for kind, wanted, _ in references(pod) if kind == "ConfigMap"}
    [card] = [one for made, one in maps.items() if made.startswith("card-")]
    [settings] = [maps[made] for made in needed]
    [mount] = [one for one in container(pod)["volumeMounts"] if one["name"] == "card"]
    assert settings["data"]["TELEPATCH_MODEL"] == f"{mount['mountPath']}/{next(iter(card['data']))}"
    [volume] = [one for one in pod["spec"]["volumes"] if one["name"] == "card"]
    assert volume["configMap"]["name"] == card["metadata"]["name"]
    assert len(workers("cpu")) + 1 == len([made for made in pods(objects) if made.startswith("worker-")])
