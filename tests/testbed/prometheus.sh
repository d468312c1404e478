#!/usr/bin/env bash
# prometheus.sh start|stop: two of Debian's Prometheus: open, and with TLS of a private authority and basic authentication
# (user ci, password secret). Both scrape, every second, what the tests write into targets.json.
. "$(dirname "$0")/lib.sh"

start() {
  local open secure d=$TESTBED_DIR
  open=$(free_port) secure=$(free_port)
  printf secret >"$d/password"
  printf wrong >"$d/wrong-password"
  echo '[]' >"$d/targets.json"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=testbed authority' -keyout "$d/ca.key" -out "$d/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout "$d/server.key" -out "$d/server.csr" 2>/dev/null
  openssl x509 -req -in "$d/server.csr" -CA "$d/ca.crt" -CAkey "$d/ca.key" -CAcreateserial -days 2 -extfile <(echo subjectAltName=IP:127.0.0.1) -out "$d/server.crt" 2>/dev/null
  cat >"$d/web.yml" <<YAML
tls_server_config: { cert_file: $d/server.crt, key_file: $d/server.key }
basic_auth_users: { ci: "$(htpasswd -Bbn ci secret | cut -d: -f2)" }
YAML
  cat >"$d/prometheus.yml" <<YAML
global: { scrape_interval: 1s }
scrape_configs:
  - job_name: tests
    file_sd_configs: [ { files: [ $d/targets.json ], refresh_interval: 1s } ]
YAML
  run open "$open"
  run secure "$secure" "--web.config.file=$d/web.yml"
  wait_port "$open" open
  wait_port "$secure" secure
  tell "HOLDFAST_PROMETHEUS_OPEN=http://127.0.0.1:$open" "HOLDFAST_PROMETHEUS_SECURE=https://127.0.0.1:$secure" "HOLDFAST_PROMETHEUS_DIR=$d"
}

# run NAME PORT OPTION...
run() {
  local name=$1 port=$2
  shift 2
  launch "$name" prometheus --config.file="$TESTBED_DIR/prometheus.yml" --storage.tsdb.path="$TESTBED_DIR/$name" --web.listen-address="127.0.0.1:$port" "$@"
}

case ${1:-} in
  start) start ;;
  stop) for name in open secure; do reap $name; done ;;
  *) sed -n 2,3p "$0"; exit 2 ;;
esac
