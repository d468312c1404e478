#!/usr/bin/env bash
# git.sh start|stop: one repository over ssh (sshd, an ed25519 key) and over http and https (Apache's CGI with
# git-http-backend and basic authentication, user ci, password secret; a certificate of a private authority).
. "$(dirname "$0")/lib.sh"

start() {
  local ssh http https d=$TESTBED_DIR
  ssh=$(free_port) http=$(free_port) https=$(free_port)
  mkdir -p "$d/repos" "$d/apache" /run/sshd
  git init -q --bare -b main "$d/repos/env.git"
  git -C "$d/repos/env.git" config http.receivepack true
  local work
  work=$(mktemp -d)
  git init -q -b main "$work"
  echo 'apiVersion: holdfast.dev/v1alpha1' >"$work/a.yaml"
  git -C "$work" add .
  git -C "$work" -c user.name=testbed -c user.email=testbed@localhost commit -q -m first
  git -C "$work" push -q "$d/repos/env.git" main
  rm -rf "$work"
  for key in host id other; do ssh-keygen -q -t ed25519 -N '' -f "$d/$key"; done
  cp "$d/id.pub" "$d/authorized_keys"
  printf '[127.0.0.1]:%s %s\n' "$ssh" "$(cut -d' ' -f1,2 "$d/host.pub")" >"$d/known_hosts"
  printf '[127.0.0.1]:%s %s\n' "$ssh" "$(cut -d' ' -f1,2 "$d/other.pub")" >"$d/wrong_known_hosts"
  cat >"$d/sshd_config" <<CONF
Port $ssh
ListenAddress 127.0.0.1
HostKey $d/host
PidFile none
AuthorizedKeysFile $d/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*
CONF
  htpasswd -Bbn ci secret >"$d/htpasswd"
  printf secret >"$d/password"
  printf wrong >"$d/wrong-password"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=testbed authority' -keyout "$d/ca.key" -out "$d/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout "$d/server.key" -out "$d/server.csr" 2>/dev/null
  openssl x509 -req -in "$d/server.csr" -CA "$d/ca.crt" -CAkey "$d/ca.key" -CAcreateserial -days 2 -extfile <(echo subjectAltName=IP:127.0.0.1) -out "$d/server.crt" 2>/dev/null
  {
    echo "ServerRoot $d/apache"
    echo 'ServerName localhost'
    echo "PidFile $d/apache/pid"
    echo "Listen 127.0.0.1:$http"
    echo "Listen 127.0.0.1:$https"
    echo "ErrorLog $d/log/apache-error.log"
    for module in mpm_event authz_core alias cgid auth_basic authn_core authn_file authz_user env socache_shmcb ssl; do
      echo "LoadModule ${module}_module /usr/lib/apache2/modules/mod_$module.so"
    done
    cat <<CONF
User www-data
Group www-data
ScriptSock $d/run/cgisock
SetEnv GIT_PROJECT_ROOT $d/repos
SetEnv GIT_HTTP_EXPORT_ALL 1
SetEnv GIT_CONFIG_COUNT 1
SetEnv GIT_CONFIG_KEY_0 safe.directory
SetEnv GIT_CONFIG_VALUE_0 *
ScriptAlias /git/ /usr/lib/git-core/git-http-backend/
<Location /git/>
 AuthType Basic
 AuthName git
 AuthUserFile $d/htpasswd
 Require valid-user
</Location>
<VirtualHost 127.0.0.1:$https>
 SSLEngine on
 SSLCertificateFile $d/server.crt
 SSLCertificateKeyFile $d/server.key
</VirtualHost>
CONF
  } >"$d/apache.conf"
  chmod 755 "$d" "$d/run"
  chown -R www-data "$d/repos"
  launch sshd /usr/sbin/sshd -D -e -f "$d/sshd_config"
  launch apache /usr/sbin/apache2 -D FOREGROUND -f "$d/apache.conf"
  wait_port "$ssh" sshd
  wait_port "$http" apache
  tell "HOLDFAST_GIT_DIR=$d" "HOLDFAST_GIT_SSH=ssh://$(id -un)@127.0.0.1:$ssh$d/repos/env.git" \
    "HOLDFAST_GIT_HTTP=http://127.0.0.1:$http/git/env.git" "HOLDFAST_GIT_HTTPS=https://127.0.0.1:$https/git/env.git"
}

case ${1:-} in
  start) start ;;
  stop) for name in apache sshd; do reap $name; done ;;
  *) sed -n 2,3p "$0"; exit 2 ;;
esac
