"""A small world for tests on Kubernetes: the API server as an administrator sees it, a namespace with a restricted token, an
image layout, a Git repository, and a daemon that knows no more than its operator's file says."""

import hashlib
import json
import os
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HOST = "images.example.com"
WAIT_S = 90
HOLDFAST = os.environ["HOLDFAST"]
API = os.environ["HOLDFAST_KUBERNETES_API"]
TESTBED = Path(os.environ["HOLDFAST_KUBERNETES_DIR"])

# What the plugin needs in its namespace, and nothing else.
RULES = [
    ([""], ["configmaps", "services"], ["get", "list", "create", "update", "patch", "delete"]),
    ([""], ["secrets"], ["get", "create", "patch", "delete"]),
    ([""], ["pods", "pods/log", "events", "resourcequotas"], ["get", "list"]),
    (["apps"], ["deployments", "deployments/scale"], ["get", "list", "create", "update", "patch", "delete"]),
    (["batch"], ["jobs"], ["get", "list", "create", "update", "patch", "delete"]),
    (["gateway.networking.k8s.io"], ["httproutes"], ["get", "list", "create", "update", "patch", "delete"]),
    (["policy"], ["poddisruptionbudgets"], ["get", "list", "create", "update", "patch", "delete"]),
]


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body[:500]}")
        self.status = status


class Cluster:
    """The API server, as its administrator."""

    def __init__(self):
        self.tls = ssl.create_default_context(cafile=str(TESTBED / "ca.crt"))
        self.tls.load_cert_chain(TESTBED / "admin.crt", TESTBED / "admin.key")

    def ask(self, method, path, body=None, kind="application/json"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(API + path, data, {"content-type": kind, "accept": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None

    def find(self, path):
        try:
            return self.ask("GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def merge(self, path, patch):
        return self.ask("PATCH", path, patch, "application/merge-patch+json")


cluster = Cluster()


def until(what, look, within_s=WAIT_S):
    end = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}; last seen: {found!r}")
        time.sleep(0.1)


class Namespace:
    """Of one test, with a service account that may do in it what the plugin needs."""

    def __init__(self, name, rules=RULES):
        self.name = name
        cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        until("a default service account", lambda: cluster.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"))
        self.create("serviceaccounts", {"metadata": {"name": "holdfast"}})
        rules = [{"apiGroups": groups, "resources": resources, "verbs": verbs} for groups, resources, verbs in rules]
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}"
        cluster.ask("POST", f"{rbac}/roles", {"metadata": {"name": "holdfast"}, "rules": rules})
        binding = {
            "metadata": {"name": "holdfast"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "holdfast"},
            "subjects": [{"kind": "ServiceAccount", "name": "holdfast", "namespace": name}],
        }
        cluster.ask("POST", f"{rbac}/rolebindings", binding)
        token = {"spec": {"expirationSeconds": 86400}}
        self.token = cluster.ask("POST", f"/api/v1/namespaces/{name}/serviceaccounts/holdfast/token", token)["status"]["token"]

    def path(self, plural):
        roots = {"deployments": "/apis/apps/v1", "jobs": "/apis/batch/v1", "httproutes": "/apis/gateway.networking.k8s.io/v1"}
        roots |= {"poddisruptionbudgets": "/apis/policy/v1", "networkpolicies": "/apis/networking.k8s.io/v1"}
        return f"{roots.get(plural, '/api/v1')}/namespaces/{self.name}/{plural}"

    def create(self, plural, body):
        return cluster.ask("POST", self.path(plural), body)

    def get(self, plural, name):
        return cluster.find(f"{self.path(plural)}/{name}")

    def list(self, plural):
        return cluster.ask("GET", self.path(plural))["items"]

    def names(self, plural):
        return sorted(one["metadata"]["name"] for one in self.list(plural))

    def delete(self, plural, name):
        cluster.ask("DELETE", f"{self.path(plural)}/{name}")

    def sizes(self):
        """Replicas by Deployment."""
        return {one["metadata"]["name"]: one["spec"]["replicas"] for one in self.list("deployments")}

    def live(self, key):
        """The generation that the workload's Service sends to."""
        service = self.get("services", key)
        return service and service["spec"]["selector"]["holdfast.dev/generation"]

    def weights(self, key):
        route = self.get("httproutes", key)
        return {one["name"]: one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]} if route else {}


class Gateways(threading.Thread):
    """Says of every HTTPRoute that its gateways have it, as a controller of the Gateway API would."""

    def __init__(self, namespace):
        super().__init__(daemon=True)
        self.namespace, self.stopped, self.seen = namespace, threading.Event(), []

    def run(self):
        while not self.stopped.wait(0.1):
            for route in self.namespace.list("httproutes"):
                weights = tuple(one["weight"] for one in route["spec"]["rules"][0]["backendRefs"])
                if not self.seen or self.seen[-1] != weights:
                    self.seen.append(weights)
                accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                accepted["observedGeneration"] = route["metadata"]["generation"]
                parents = [{"parentRef": one, "controllerName": "test/gateway", "conditions": [accepted]} for one in route["spec"]["parentRefs"]]
                if route.get("status", {}).get("parents", [{}])[0].get("conditions") != [accepted]:
                    path = f"{self.namespace.path('httproutes')}/{route['metadata']['name']}/status"
                    try:
                        cluster.merge(path, {"status": {"parents": parents}})
                    except Refused:
                        # It has just gone, or changed.
                        pass


class World:
    """A daemon with one target, the namespace."""

    def __init__(self, namespace, target_config=None):
        self.namespace = namespace
        self.directory = tempfile.TemporaryDirectory(prefix="holdfast-kubernetes-")
        self.root = Path(self.directory.name)
        self.target_config = {"namespace": namespace.name, **(target_config or {})}
        self.daemon = None
        (self.root / "token").write_text(namespace.token)
        (self.root / "token").chmod(0o600)
        (self.root / "secrets").mkdir(mode=0o700)
        operator = {
            "repository": {"url": "repo", "branch": "main", "interval": "60s"},
            "data": "data",
            "registries": [{"host": HOST, "layout": "images"}],
            "bindings": [
                {
                    "target": "cluster",
                    "plugin": "kubernetes",
                    "endpoints": {"cluster": {"url": API, "ca_file": str(TESTBED / "ca.crt"), "auth": {"bearer_token_file": "token"}}},
                    "config": {"namespace": namespace.name},
                }
            ],
            "secrets": {"dir": "secrets", "grants": [{"target": "*", "workload": "*", "names": ["db"]}]},
        }
        self.configure(operator)
        self.git("init", "-q", "-b", "main", "repo", cwd=self.root)
        self.write("target.yaml", {"kind": "Target", "metadata": {"name": "cluster"}, "spec": {"plugin": "kubernetes", "config": self.target_config}})

    def configure(self, operator):
        self.operator = operator
        # JSON is YAML.
        (self.root / "holdfast.yaml").write_text(json.dumps(operator))

    def git(self, *words, cwd=None):
        who = {f"GIT_{whose}_{what}": value for whose in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "test"), ("EMAIL", "test@localhost"))}
        done = subprocess.run(["git", *words], cwd=cwd or self.root / "repo", env={**os.environ, **who}, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, name, document):
        (self.root / "repo" / name).write_text(json.dumps({"apiVersion": "holdfast.dev/v1alpha1", **document}))

    def commit(self, **workloads):
        """Commits workloads by name; none: it goes."""
        for name, spec in workloads.items():
            if spec is None:
                (self.root / "repo" / f"{name}.yaml").unlink()
            else:
                self.write(f"{name}.yaml", {"kind": "Workload", "metadata": {"name": name}, "spec": spec})
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def image(self, repository, tag):
        """An image in the layout; its digest."""
        layout = self.root / "images" / repository
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)

        def blob(content):
            digest = hashlib.sha256(content).hexdigest()
            (blobs / digest).write_bytes(content)
            return {"digest": f"sha256:{digest}", "size": len(content)}

        layer = blob(f"{repository} {tag}".encode())
        config = blob(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **layer}],
        }
        found = {"mediaType": manifest["mediaType"], **blob(json.dumps(manifest).encode()), "annotations": {"org.opencontainers.image.ref.name": tag}}
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        index = layout / "index.json"
        others = [one for one in json.loads(index.read_text())["manifests"] if one["annotations"] != found["annotations"]] if index.exists() else []
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*others, found]}))
        return found["digest"]

    def run(self):
        with (self.root / "daemon.log").open("a") as log:
            self.daemon = subprocess.Popen([HOLDFAST, "run", "--log-format", "json", "--log", "info,holdfast=debug,holdfast_host=debug"], cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready():
            if self.daemon.poll() is not None:
                raise AssertionError(f"the daemon ended:\n{self.log()}")
            return self.cli("status", "--json").returncode == 0

        until("a daemon that is ready", ready)

    def kill(self, number=signal.SIGKILL):
        self.daemon.send_signal(number)
        self.daemon.wait(timeout=30)

    def close(self):
        if self.daemon and self.daemon.poll() is None:
            self.kill(signal.SIGTERM)
        self.directory.cleanup()

    def cli(self, *words):
        return subprocess.run([HOLDFAST, *words], cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S * 2)

    def json(self, *words):
        done = self.cli(*words, "--json")
        if not done.stdout:
            raise AssertionError(f"{words}: {done.stderr}")
        return json.loads(done.stdout)

    def settled(self, commit):
        """Exit code of waiting for the commit, and what was said."""
        done = self.cli("status", "--wait", commit, "--timeout-s", str(WAIT_S))
        return done.returncode, done.stdout + done.stderr

    def deploy(self, **workloads):
        return self.settled(self.commit(**workloads))

    def log(self):
        return (self.root / "daemon.log").read_text()


def app(tag, repository="app", strategy=None, pod=None, **more):
    """A workload of one container behind a Service."""
    template = {"pod": {"containers": [{"name": "app", "image": "${artifacts.main}", "ports": [{"containerPort": 8080}]}]}}
    template["pod"].update(pod or {})
    template["service"] = {"ports": [{"port": 80, "targetPort": 8080}]}
    template.update(more.pop("template", {}))
    spec = {
        "artifacts": {"main": f"{HOST}/{repository}:{tag}"},
        "placement": {"targets": {"names": ["cluster"]}},
        "template": {name: value for name, value in template.items() if value is not None},
        "health": {"timeout": "15s", "interval": "500ms", "stable": "1s"},
        "drain": "1s",
        **more,
    }
    if strategy:
        spec["strategy"] = strategy
    return spec
