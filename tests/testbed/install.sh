#!/usr/bin/env bash
# install.sh GROUP...: the Debian packages that a test group needs, only where they are missing. No service is started.
set -euo pipefail

packages() {
  case $1 in
    registry) echo docker-registry apache2-utils openssl ;;
    git) echo openssh-server openssh-client apache2 apache2-utils git ;;
    prometheus) echo prometheus apache2-utils openssl ;;
    audit) echo python3-cryptography ;;
    *) echo "error: no group $1; there are registry, git, prometheus and audit" >&2; return 2 ;;
  esac
}

wanted=()
for group in "$@"; do
  list=$(packages "$group")
  for package in $list; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || wanted+=("$package")
  done
done
[ ${#wanted[@]} = 0 ] && exit 0

# Without this a package would start its own daemon where an init runs.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q -o DPkg::Lock::Timeout=300
apt-get install -q -y --no-install-recommends --no-upgrade -o DPkg::Lock::Timeout=300 "${wanted[@]}"
