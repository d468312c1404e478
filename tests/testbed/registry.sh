#!/usr/bin/env bash
# registry.sh start|stop: three of Debian's docker-registry: open, with basic authentication, and with bearer tokens from
# a small issuer of ours. The user is ci, the password secret.
. "$(dirname "$0")/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)

# config NAME PORT AUTH
config() {
  cat >"$TESTBED_DIR/$1.yml" <<YAML
version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: $TESTBED_DIR/$1 }, delete: { enabled: true } }
http: { addr: "127.0.0.1:$2" }
$3
YAML
}

start() {
  local open basic bearer issuer
  open=$(free_port) basic=$(free_port) bearer=$(free_port) issuer=$(free_port)
  htpasswd -Bbn ci secret >"$TESTBED_DIR/htpasswd"
  printf secret >"$TESTBED_DIR/password"
  printf wrong >"$TESTBED_DIR/wrong-password"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=issuer -keyout "$TESTBED_DIR/issuer.key" -out "$TESTBED_DIR/issuer.crt" 2>/dev/null
  config open "$open" ""
  config basic "$basic" "auth: { htpasswd: { realm: basic, path: $TESTBED_DIR/htpasswd } }"
  config bearer "$bearer" "auth: { token: { realm: \"http://127.0.0.1:$issuer/token\", service: testbed, issuer: issuer, rootcertbundle: $TESTBED_DIR/issuer.crt } }"
  launch issuer python3 "$here/issuer.py" "$issuer" "$TESTBED_DIR/issuer.key" "$TESTBED_DIR/issuer.crt"
  for name in open basic bearer; do launch $name docker-registry serve "$TESTBED_DIR/$name.yml"; done
  wait_port "$issuer" issuer
  wait_port "$open" open
  wait_port "$basic" basic
  wait_port "$bearer" bearer
  tell "HOLDFAST_REGISTRY_OPEN=127.0.0.1:$open" "HOLDFAST_REGISTRY_BASIC=127.0.0.1:$basic" "HOLDFAST_REGISTRY_BEARER=127.0.0.1:$bearer" \
    "HOLDFAST_REGISTRY_ISSUER=http://127.0.0.1:$issuer/token" "HOLDFAST_REGISTRY_ISSUER_HOST=127.0.0.1" \
    "HOLDFAST_REGISTRY_PASSWORD=$TESTBED_DIR/password" "HOLDFAST_REGISTRY_WRONG_PASSWORD=$TESTBED_DIR/wrong-password"
}

case ${1:-} in
  start) start ;;
  stop) for name in open basic bearer issuer; do reap $name; done ;;
  *) sed -n 2,3p "$0"; exit 2 ;;
esac
