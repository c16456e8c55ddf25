"""What deploys Drawdown, checked as far as that goes without a cluster: parsed, held to its schema, and to itself."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.main import get_command

from drawdown.cli.cluster import ACKNOWLEDGED_S
from drawdown.cli.main import app
from drawdown.cli.nouns.tick import parse_shard
from drawdown.cli.settings import Settings
from drawdown.schema.units import BUCKETS
from drawdown.server.metrics import of_workers
from drawdown.worker.cluster.lists import Cluster, JobsOfKind
from tests.acceptance.commands import PROJECT
from tests.unit.test_named_commands import fault

DEPLOY = PROJECT / "ops" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted([*(DEPLOY / "systemd").glob("*.service"), *(DEPLOY / "systemd").glob("*.timer")])
SCHEMA = json.loads(Path(__file__).with_name("kubernetes.schema.json").read_text(encoding="utf-8"))
WRAPPER = DEPLOY / "drawdown-job"
WITH_SETTINGS = DEPLOY / "drawdown-with-settings"


def documents(*paths: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths or KUBERNETES:
        for number, document in enumerate(_read(path)):
            yield f"{path.name}#{number}", deepcopy(document)


@cache
def _read(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def errors(document: object) -> list[str]:
    return [
        f"{'/'.join(map(str, one.path))}: {one.message}" for one in Draft202012Validator(SCHEMA).iter_errors(document)
    ]


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    spec = document.get("spec", {})
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    found: dict[str, Any] | None = None if template is None else template["spec"]
    return found


def pods() -> list[tuple[str, dict[str, Any]]]:
    return [(name, pod) for name, document in documents() if (pod := pod_of(document)) is not None]


def test_manifests_match_schema() -> None:
    assert {name: wrong for name, document in documents() if (wrong := errors(document))} == {}


def test_manifest_schema_rejects_invalid_changes() -> None:
    """Each change of a good manifest is one that Kubernetes would refuse, or take without doing what was meant."""
    cron = dict(documents(DEPLOY / "kubernetes" / "cronjob.yaml"))["cronjob.yaml#0"]
    assert errors(cron) == []
    for old, new in (
        ('"concurrencyPolicy": "Forbid"', '"concurrencyPolicy": "forbid"'),
        ('"readOnlyRootFilesystem"', '"readonlyRootFilesystem"'),
        ('"podFailurePolicy"', '"podFailurePolicies"'),
        ('"values": [1, 2]', '"values": [0]'),
        ('"apiVersion": "batch/v1"', '"apiVersion": "batch/v1beta1"'),
        ('"memory": "1Gi"', '"memory": "1 GB"'),
        ('"schedule": "*/5 * * * *"', '"schedule": "*/5 * * *"'),
        ('"backoffLimit": 1', '"backoffLimit": "1"'),
        ('"kind": "CronJob"', '"kind": "Cronjob"'),
        ('"name": "drawdown-tick"}, "spec"', '"name": "Drawdown_tick"}, "spec"'),
    ):
        text = json.dumps(cron)
        assert old in text, old
        assert errors(json.loads(text.replace(old, new))), new


@pytest.mark.parametrize(("name", "pod"), pods())
def test_manifest_pods_are_confined_and_references_resolve(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["memory"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    own = container["securityContext"]
    assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert re.fullmatch(r".+:\d+\.\d+\.\d+", container["image"]), "an image by its version"
    there = {(document["kind"], document["metadata"]["name"]) for _, document in documents()}
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert set(mounted) == {one["name"] for one in pod["volumes"]}
    settings = dict(documents(DEPLOY / "kubernetes" / "settings.yaml"))["settings.yaml#0"]["data"]
    assert mounted["state"] == settings["DRAWDOWN_STATE_DIR"]
    sources = [next(iter(one.items())) for one in container["envFrom"]]
    assert sources == [("configMapRef", {"name": "drawdown"})], "secrets are files, which are read again"
    (secrets,) = [one["secret"] for one in pod["volumes"] if one["name"] == "secrets"]
    assert secrets == {"secretName": "drawdown", "defaultMode": 0o440}
    assert ("ConfigMap", "drawdown") in there
    for name, text in settings.items():
        if "SECRET" in name or "KEY" in name or "URL" in name:
            assert text == f"{mounted['secrets']}/{name.removesuffix('_FILE')}" and name.endswith("_FILE"), "a secret"


def test_manifest_settings_are_known_settings() -> None:
    settings = dict(documents(DEPLOY / "kubernetes" / "settings.yaml"))["settings.yaml#0"]["data"]
    known = {f"DRAWDOWN_{name.upper()}" for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in settings} <= known
    own = {name: text for name, text in settings.items() if not name.endswith("_FILE")}
    given = {name.removeprefix("DRAWDOWN_").lower(): text for name, text in own.items()}
    assert Settings.model_validate(given).cells().networks


def test_manifest_selectors_match_pods() -> None:
    pods = [
        document["spec"]["template"]["metadata"]["labels"]
        for _, document in documents()
        if document["kind"] == "Deployment"
    ]
    for _, document in documents():
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
        if document["kind"] == "Service":
            assert any(document["spec"]["selector"].items() <= labels.items() for labels in pods)


def test_upgrade_guide_waits_for_long_running_pods_only() -> None:
    """A pod of a Job stays when it has ended: waiting for its deletion takes until the wait is given up."""
    text = (DEPLOY / "UPGRADE.md").read_text(encoding="utf-8")
    roles: dict[str, set[str]] = {"Deployment": set(), "CronJob": set(), "Job": set()}
    for _, document in documents():
        if pod_of(document) is not None:
            spec = document["spec"].get("jobTemplate", {}).get("spec", document["spec"])
            roles[document["kind"]].add(spec["template"]["metadata"]["labels"]["role"])
    (lasting,) = re.findall(r"wait --for=delete pod -l 'app=drawdown,role in \(([\w,]+)\)'", text)
    assert set(lasting.split(",")) == roles["Deployment"]
    assert text.count("--for=delete") == 1
    (ending,) = re.findall(r"get pod -l 'app=drawdown,role in \(([\w,]+)\)'", text)
    assert set(ending.split(",")) == roles["CronJob"]


def test_systemd_services_are_bounded_in_memory_and_tasks() -> None:
    for path in (one for one in UNITS if one.suffix == ".service"):
        text = path.read_text(encoding="utf-8")
        assert re.search(r"^MemoryMax=\d+[MG]$", text, re.MULTILINE), path.name
        assert re.search(r"^TasksMax=\d+$", text, re.MULTILINE), path.name


def test_manifest_probes_use_healthz_only() -> None:
    """It answers "in doubt" then, and that is what its callers need: /readyz would take the pod out of the Service."""
    probes = [
        probe["httpGet"]["path"]
        for _, pod in pods()
        for container in pod["containers"]
        for name, probe in container.items()
        if name.endswith("Probe") and "httpGet" in probe
    ]
    assert set(probes) == {"/healthz"}


def test_manifest_tick_exit_75_does_not_fail_job() -> None:
    for cron in (document for _, document in documents() if document["kind"] == "CronJob"):
        _does_not_fail(cron)


def _does_not_fail(cron: dict[str, Any]) -> None:
    job = cron["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert pod["containers"][0]["command"][0] == WRAPPER.name
    assert pod["restartPolicy"] == "Never", "a podFailurePolicy needs it"
    failing = [
        code for rule in job["podFailurePolicy"]["rules"] for code in rule.get("onExitCodes", {}).get("values", ())
    ]
    assert failing == [1, 2]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    _, name, *options = pod["containers"][0]["command"]
    if name == "tick":
        assert int(options[options.index("--deadline") + 1]) < 300 < job["activeDeadlineSeconds"]


def test_manifest_sharded_job_covers_each_bucket_once() -> None:
    ((_, cron),) = documents(DEPLOY / "kubernetes" / "shards.yaml")
    job = cron["spec"]["jobTemplate"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    command = job["template"]["spec"]["containers"][0]["command"]
    given = command[command.index("--shard") + 1]
    indices = [given.replace("$(JOB_COMPLETION_INDEX)", str(index)) for index in range(job["completions"])]
    taken = [bucket for one in map(parse_shard, indices) for bucket in range(one.lo, one.hi + 1)]
    assert taken == list(range(BUCKETS)), "each bucket in one shard"
    failing = [rule["action"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert failing == ["FailIndex"] and "backoffLimit" not in job, "a shard that fails ends no other"


def test_manifest_workers_are_recreated_with_enough_grace_time() -> None:
    ((_, workers),) = documents(DEPLOY / "kubernetes" / "worker.yaml")
    spec, pod = workers["spec"], workers["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[:2] == ["drawdown", "worker"] and int(command[command.index("--shards") + 1]) >= spec["replicas"] > 1
    assert spec["strategy"] == {"type": "Recreate"}, "one with other terms is refused while those before it live"
    (claim,) = [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    modes = {
        one["metadata"]["name"]: one["spec"]["accessModes"]
        for _, one in documents()
        if one["kind"] == "PersistentVolumeClaim"
    }
    assert modes[claim] == ["ReadWriteMany"], "all of them have it"
    assert pod["terminationGracePeriodSeconds"] > ACKNOWLEDGED_S


def test_manifest_worker_scaling_uses_existing_metric_within_shards() -> None:
    ((_, scale),) = documents(DEPLOY / "kubernetes" / "worker-scale.yaml")
    ((_, workers),) = documents(DEPLOY / "kubernetes" / "worker.yaml")
    spec, target = scale["spec"], scale["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (workers["kind"], workers["metadata"]["name"])
    command = workers["spec"]["template"]["spec"]["containers"][0]["command"]
    shards = int(command[command.index("--shards") + 1])
    assert workers["spec"]["replicas"] == spec["minReplicas"] < spec["maxReplicas"] <= shards // 2
    (metric,) = [one["external"]["metric"] for one in spec["metrics"]]
    told = {
        f"drawdown_{one.name.removeprefix('drawdown_')}": one.samples
        for one in of_workers(Cluster(shards, 300, [], [JobsOfKind("tick", "waits", 3, 0)]))
    }
    assert [one.value for one in told[metric["name"]] if one.labels == metric["selector"]["matchLabels"]] == [3.0]


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A `drawdown` that ends as its environment says, and says what it was told."""
    found = tmp_path / "drawdown"
    found.write_text(
        '#!/bin/sh\ntrap "exit 75" TERM\necho "$@"\n[ -n "$LONG" ] && { sleep 60 & wait; }\nexit "$STATUS"\n'
    )
    found.chmod(0o755)
    return tmp_path


def test_tick_wrapper_maps_exit_75_to_0(stub: Path) -> None:
    command = [str(WRAPPER), "tick", "--deadline", "240"]
    for status, said in ((0, 0), (75, 0), (1, 1), (2, 2), (137, 137)):
        env = {"PATH": f"{stub}:{os.environ['PATH']}", "STATUS": str(status), "LONG": ""}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout.strip()) == (said, "tick --deadline 240")


def test_tick_wrapper_forwards_signal_and_waits(stub: Path) -> None:
    env = {"PATH": f"{stub}:{os.environ['PATH']}", "STATUS": "1", "LONG": "1"}
    running = subprocess.Popen([WRAPPER, "tick"], env=env, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stdout.readline().strip() == "tick"
    running.send_signal(signal.SIGTERM)
    assert running.wait(300) == 0, "the tick ended with 75 upon the signal"
    running.stdout.close()


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, pod in pods():
        command = pod["containers"][0]["command"]
        yield name, [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in command[1:]]
    for path in UNITS:
        for line in re.findall(r"^ExecStart=(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield path.name, shlex.split(line)[1:]
    (default,) = re.findall(r"^CMD (\[.+\])$", (PROJECT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    yield "Dockerfile", json.loads(default)


def test_manifest_and_unit_commands_and_options_exist() -> None:
    group: Any = get_command(app)
    for _, (name, *arguments) in commands():
        group.commands[name].make_context(name, arguments)


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def test_systemd_units_have_schedule_restart_and_confinement() -> None:
    tick, nightly, serve, watch = (
        unit(DEPLOY / "systemd" / f"drawdown-{name}.service") for name in ("tick", "nightly", "serve", "watch")
    )
    for name, once, when in (("tick", tick, "*:0/5"), ("nightly", nightly, "*-*-* 02:17:00 UTC")):
        timer = unit(DEPLOY / "systemd" / f"drawdown-{name}.timer")
        assert (once["Service"]["Type"], once["Service"]["SuccessExitStatus"]) == ("oneshot", "75")
        assert (timer["Timer"]["OnCalendar"], timer["Install"]["WantedBy"]) == (when, "timers.target")
    for lasting in (serve["Service"], watch["Service"]):
        assert lasting["Restart"] == "always" and "SuccessExitStatus" not in lasting
    for one in (tick["Service"], nightly["Service"], serve["Service"], watch["Service"]):
        assert one["User"] == "drawdown" and one["NoNewPrivileges"] == "yes" and one["ProtectSystem"] == "strict"
        assert one["Environment"] == f"DRAWDOWN_STATE_DIR=/var/lib/{one['StateDirectory']}"
        assert one["EnvironmentFile"].startswith("/etc/drawdown/"), "no secret stands in a unit"


def test_systemd_metrics_file_is_readable_by_collector() -> None:
    tick = unit(DEPLOY / "systemd" / "drawdown-tick.service")["Service"]
    words = shlex.split(tick["ExecStart"])
    file = Path(words[words.index("--metrics-file") + 1])
    assert file.parent == Path("/var/cache") / tick["CacheDirectory"] and tick["CacheDirectoryMode"] == "0755"
    assert tick["UMask"] == "0077", "and whatever else there is stays closed"
    assert f"--collector.textfile.directory={file.parent}`" in (DEPLOY / "README.md").read_text(encoding="utf-8")


def block(kind: str, naming: str) -> list[str]:
    """The lines of the page's one block that is of this kind and names this."""
    found = re.findall(rf"```{kind}\n(.*?)```", (DEPLOY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (text,) = [str(one) for one in found if naming in one]
    return text.splitlines()


def test_crontab_lines_are_settings_or_unit_commands() -> None:
    lines = [line for line in block("crontab", f"{WITH_SETTINGS.name} tick") if not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines if re.match("[A-Z_]+=", line))
    assert settings.keys() == {"PATH", "MAILTO"}, "cron mails what stands here"
    assert settings["PATH"].startswith("/opt/drawdown/bin:/usr/local/bin:")
    jobs = [line.split(maxsplit=5) for line in lines[len(settings) :]]
    assert all(re.fullmatch(r"[\d*/]+", part) for job in jobs for part in job[:5])
    own = [job[5] for job in jobs if job[5].startswith(f"{WITH_SETTINGS.name} ")]
    assert [fault(shlex.split(line)[1:]) for line in own] == [None] * len(jobs)
    assert 3 < int(jobs[1][1]) < 24, "clocks are put forward until 3 at night: what lies there is left out"
    tick = unit(DEPLOY / "systemd" / "drawdown-tick.service")["Service"]
    given = dict(line.split("=", 1) for line in block("sh", WITH_SETTINGS.name) if line.startswith("DRAWDOWN_"))
    assert given.keys() <= {f"DRAWDOWN_{name.upper()}" for name in Settings.model_fields}
    assert tick["Environment"] == f"DRAWDOWN_STATE_DIR={given['DRAWDOWN_STATE_DIR']}"
    assert set(shlex.split(tick["ExecStart"])[1:]) <= set(shlex.split(jobs[0][5]))


def test_settings_wrapper_passes_values_unchanged(tmp_path: Path) -> None:
    """A URL has characters that a shell would take for its own."""
    (tmp_path / "drawdown").write_text('#!/bin/sh\necho "$DRAWDOWN_DATABASE_URL|$DRAWDOWN_MY_CONTACT|$1 $2"\n')
    (tmp_path / "drawdown").chmod(0o755)
    file, url = tmp_path / "settings", "postgresql://u:p$HOME&`id`;'@db/x?sslmode=require"
    file.write_text(f'# ours\n\nDRAWDOWN_DATABASE_URL={url}\nDRAWDOWN_MY_CONTACT="a b"')
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DRAWDOWN_SETTINGS": str(file)}

    def ended(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(WITH_SETTINGS), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    assert ended("tick", "--quiet").stdout == f"{url}|a b|tick --quiet\n"
    file.write_text("export X\n")
    assert (ended("tick").returncode, "invalid line: expected NAME=value" in ended("tick").stderr) == (2, True)
    file.unlink()
    assert (ended("tick").returncode, "cannot read" in ended("tick").stderr) == (2, True)


def test_systemd_install_commands_cover_all_units() -> None:
    text = "\n".join(block("sh", "systemctl enable"))
    (enabled,) = re.findall(r"^systemctl enable --now (.+)$", text, re.MULTILINE)
    assert set(enabled.split()) == {one.name for one in UNITS if unit(one).has_section("Install")}
    for one in UNITS:
        if one.suffix == ".service":
            assert f"cat > {unit(one)['Service']['EnvironmentFile']} <<" in text
            assert unit(one)["Service"]["ExecStart"].split()[0] in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_analyze_accepts_units(tmp_path: Path) -> None:
    for path in UNITS:
        text = path.read_text(encoding="utf-8").replace("/opt/drawdown/bin/drawdown", "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    names = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, timeout=120
    )
    ours = [line for line in done.stderr.splitlines() if "drawdown" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def instructions() -> list[tuple[str, str]]:
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def test_dockerfile_is_pinned_and_runs_as_non_root() -> None:
    found = instructions()
    bases = [rest for word, rest in found if word == "FROM"]
    assert len(bases) == 2, "built in one stage, run in another"
    assert all(re.match(r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}( AS \w+)?$", base) for base in bases), bases
    last = found[max(number for number, one in enumerate(found) if one[0] == "FROM") :]
    words = [word for word, _ in last]
    (user,) = [rest for word, rest in last if word == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "a number, so that Kubernetes sees that it is not root"
    assert "HEALTHCHECK" in words and "VOLUME" in words
    assert words.index("USER") > max(number for number, word in enumerate(words) if word in ("RUN", "COPY"))
    assert all(json.loads(rest) for word, rest in last if word in ("ENTRYPOINT", "CMD")), "signals need the exec form"
    assert not [word for word, rest in found if word == "ADD" or "sudo" in rest or "curl" in rest or "|" in rest]
    assert not [rest for word, rest in found if word in ("ENV", "ARG") and re.search("SECRET|KEY|TOKEN|PASSWORD", rest)]


def test_dockerfile_copied_sources_exist_and_are_not_ignored() -> None:
    kept = {
        line[1:]
        for line in (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    for word, rest in instructions():
        if word != "COPY" or "--from" in rest:
            continue
        *sources, _ = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            assert (PROJECT / source).exists() and source in kept, source
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")} - {"tests", "drawdown"}
    assert packages <= kept, "every package is in the image"


def test_manifest_pods_run_as_image_user() -> None:
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    for name, pod in pods():
        context = pod["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user, name
        assert context["fsGroup"] == context["runAsGroup"], name
