#!/usr/bin/env bash
# kubernetes.sh start|stop: a real API server (TLS, RBAC), controller manager and scheduler on etcd, with three of kwok's fake
# nodes and the Gateway API's definitions. What tests need to know is in TESTBED_DIR/env.
. "$(dirname "$0")/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)

# sign NAME SUBJECT USAGE [MORE EXTENSIONS]
sign() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$TESTBED_DIR/$1.key" -out "$TESTBED_DIR/$1.csr" 2>/dev/null
  openssl x509 -req -in "$TESTBED_DIR/$1.csr" -CA "$TESTBED_DIR/ca.crt" -CAkey "$TESTBED_DIR/ca.key" -CAcreateserial -days 2 -out "$TESTBED_DIR/$1.crt" \
    -extfile <(printf 'extendedKeyUsage=%s\n%s' "$3" "${4:-}") 2>/dev/null
}

# kubeconfig NAME: for the components; tests use the API directly.
kubeconfig() {
  cat >"$TESTBED_DIR/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: testbed
clusters: [ { name: testbed, cluster: { server: "$api", certificate-authority: "$TESTBED_DIR/ca.crt" } } ]
users: [ { name: testbed, user: { client-certificate: "$TESTBED_DIR/$1.crt", client-key: "$TESTBED_DIR/$1.key" } } ]
contexts: [ { name: testbed, context: { cluster: testbed, user: testbed } } ]
YAML
}

admin() { curl -fsS --cacert "$TESTBED_DIR/ca.crt" --cert "$TESTBED_DIR/admin.crt" --key "$TESTBED_DIR/admin.key" "$@"; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local seconds=$1 what=$2
  shift 2
  for _ in $(seq $((seconds * 10))); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "error: no $what within $seconds s; the logs are in $TESTBED_DIR/log" >&2
  return 1
}

start_apiserver() {
  launch apiserver "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd" --bind-address=127.0.0.1 --secure-port="$port" --advertise-address=10.96.0.1 \
    --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/16 --tls-cert-file="$TESTBED_DIR/apiserver.crt" --tls-private-key-file="$TESTBED_DIR/apiserver.key" \
    --client-ca-file="$TESTBED_DIR/ca.crt" --authorization-mode=RBAC --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$TESTBED_DIR/accounts.key" --service-account-signing-key-file="$TESTBED_DIR/accounts.key" --event-ttl=10m
  wait_for 120 "API server" admin "$api/readyz"
}

start() {
  bin=$("$here/kubernetes-build.sh")
  local etcd_peer name
  port=$(free_port) etcd=$(free_port) etcd_peer=$(free_port)
  api=https://127.0.0.1:$port
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=testbed -keyout "$TESTBED_DIR/ca.key" -out "$TESTBED_DIR/ca.crt" 2>/dev/null
  openssl genrsa -out "$TESTBED_DIR/accounts.key" 2048 2>/dev/null
  sign apiserver /CN=kube-apiserver serverAuth subjectAltName=IP:127.0.0.1,DNS:kubernetes.default.svc
  sign controller /CN=system:kube-controller-manager clientAuth
  sign scheduler /CN=system:kube-scheduler clientAuth
  sign admin /O=system:masters/CN=admin clientAuth
  for name in controller scheduler admin; do kubeconfig $name; done
  printf '%s\n' "bin=$bin" "port=$port" "etcd=$etcd" "api=$api" >"$TESTBED_DIR/ports"

  # etcd takes every variable ETCD_* for an option.
  launch etcd env -i "$bin/etcd" --data-dir "$TESTBED_DIR/etcd" --unsafe-no-fsync --log-level warn --listen-client-urls "http://127.0.0.1:$etcd" \
    --advertise-client-urls "http://127.0.0.1:$etcd" --listen-peer-urls "http://127.0.0.1:$etcd_peer" --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer" \
    --initial-cluster "default=http://127.0.0.1:$etcd_peer"
  start_apiserver
  # Rates high enough that they are not what a test of many workloads waits for.
  launch controller "$bin/kube-controller-manager" --kubeconfig="$TESTBED_DIR/controller.kubeconfig" --authentication-kubeconfig="$TESTBED_DIR/controller.kubeconfig" \
    --authorization-kubeconfig="$TESTBED_DIR/controller.kubeconfig" --bind-address=127.0.0.1 --secure-port="$(free_port)" --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file="$TESTBED_DIR/accounts.key" --root-ca-file="$TESTBED_DIR/ca.crt" \
    --flex-volume-plugin-dir="$TESTBED_DIR/none" --kube-api-qps=300 --kube-api-burst=600
  cat >"$TESTBED_DIR/scheduler.yaml" <<YAML
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: { leaderElect: false }
clientConnection: { kubeconfig: "$TESTBED_DIR/scheduler.kubeconfig", qps: 300, burst: 600 }
YAML
  launch scheduler "$bin/kube-scheduler" --config="$TESTBED_DIR/scheduler.yaml" --authentication-kubeconfig="$TESTBED_DIR/scheduler.kubeconfig" \
    --authorization-kubeconfig="$TESTBED_DIR/scheduler.kubeconfig" --bind-address=127.0.0.1 --secure-port="$(free_port)"
  launch kwok "$bin/kwok" --kubeconfig="$TESTBED_DIR/admin.kubeconfig" --config="$here/kwok.yaml" --manage-nodes-with-label-selector=type=kwok \
    --cidr=10.0.0.1/16 --node-ip=10.255.0.1 --node-lease-duration-seconds=40 --server-address="127.0.0.1:$(free_port)"
  for name in 1 2 3; do
    admin -o /dev/null -H 'content-type: application/json' "$api/api/v1/nodes" \
      -d '{"apiVersion":"v1","kind":"Node","metadata":{"name":"node'$name'","labels":{"type":"kwok","kubernetes.io/os":"linux","kubernetes.io/hostname":"node'$name'"}}}'
  done
  for name in "$bin"/crds/*.yaml; do
    admin -o /dev/null -H 'content-type: application/yaml' --data-binary @"$name" "$api/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
  done
  wait_for 60 "HTTPRoute" admin "$api/apis/gateway.networking.k8s.io/v1/httproutes"
  wait_for 60 "service account" admin "$api/api/v1/namespaces/default/serviceaccounts/default"
  tell "HOLDFAST_KUBERNETES_API=$api" "HOLDFAST_KUBERNETES_DIR=$TESTBED_DIR"
}

case ${1:-} in
  start) start ;;
  # For tests of an API server that goes away.
  stop-apiserver) reap apiserver ;;
  start-apiserver)
    # shellcheck disable=SC1091
    . "$TESTBED_DIR/ports"
    start_apiserver
    ;;
  stop) for name in kwok scheduler controller apiserver etcd; do reap $name; done ;;
  *) sed -n 2,3p "$0"; exit 2 ;;
esac
