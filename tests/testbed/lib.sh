# Sourced by the scripts beside it. Everything they make lies below TESTBED_DIR and listens on loopback.
set -euo pipefail
: "${TESTBED_DIR:?say where: TESTBED_DIR=/some/new/directory}"
mkdir -p "$TESTBED_DIR/run" "$TESTBED_DIR/log"

# started PID: when a process began, in the kernel's ticks; a pid that came back as another process has another time.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# launch NAME COMMAND...: in the background, remembered by pid and start time.
launch() {
  local name=$1
  shift
  setsid "$@" >"$TESTBED_DIR/log/$name.log" 2>&1 </dev/null &
  echo "$! $(started $!)" >"$TESTBED_DIR/run/$name"
}

# reap NAME: TERM, then KILL, and only the process that was launched.
reap() {
  local file=$TESTBED_DIR/run/$1 pid start
  [ -e "$file" ] || return 0
  read -r pid start <"$file"
  for signal in TERM KILL; do
    for _ in $(seq 50); do
      [ "$(started "$pid")" = "$start" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || { rm -f "$file"; return 0; }
      kill -$signal "$pid" 2>/dev/null || true
      sleep 0.1
    done
  done
  echo "error: $1 does not end" >&2
  return 1
}

# free_port: one that nobody listens on now.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# wait_port PORT NAME
wait_port() {
  for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
    sleep 0.1
  done
  echo "error: $2 does not listen on port $1:" >&2
  cat "$TESTBED_DIR/log/$2.log" >&2
  return 1
}

# tell NAME=VALUE...: for the tests.
tell() { printf '%s\n' "$@" >>"$TESTBED_DIR/env"; }
