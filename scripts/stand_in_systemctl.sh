#!/usr/bin/env bash
# Replaces systemctl in scripts/try_admin_guide.sh: starts the ExecStart of warden.service as its User, and nginx by its own command.
set -euo pipefail
PID_FILE=/run/warden.pid

of_unit() {
    sed -n "s/^$1=//p" /etc/systemd/system/warden.service
}

start_warden() {
    local user group state
    user=$(of_unit User) group=$(of_unit Group) state=/var/lib/$(of_unit StateDirectory)
    install -d -m "$(of_unit StateDirectoryMode)" -o "$user" -g "$group" "$state"
    # shellcheck disable=SC2046  the words of the command
    HOME=$state setsid setpriv --reuid="$user" --regid="$group" --init-groups -- $(of_unit ExecStart) \
        </dev/null >>/var/log/warden.log 2>&1 &
    echo $! >$PID_FILE
    for _ in $(seq 200); do
        curl --silent --output /dev/null http://127.0.0.1:8000/healthz && return
        sleep 0.2
    done
    cat /var/log/warden.log >&2
    return 1
}

stop_warden() {
    local pid
    pid=$(cat $PID_FILE)
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    rm $PID_FILE
}

case "$*" in
daemon-reload) ;;
"enable --now warden" | "start warden") start_warden ;;
"stop warden") stop_warden ;;
"restart warden") stop_warden && start_warden ;;
"reload nginx") nginx -s reload 2>/dev/null || nginx ;;
*) echo "systemctl $*: not known here" >&2 && exit 1 ;;
esac
