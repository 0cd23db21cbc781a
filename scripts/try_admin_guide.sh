#!/usr/bin/env bash
# Run the numbered sections of docs/admin-guide.md, word for word, in a fresh Debian root: scripts/try_admin_guide.sh [FOLDER…]
#
# Needs root and mmdebstrap. Packages come from the sources of this machine's apt and pip; each FOLDER (of wheels) is
# mounted at its own path. Shell blocks are run; a block whose first line is a comment with a path becomes that file.
# systemd is not PID 1 in the root: scripts/stand_in_systemctl.sh starts the ExecStart of the unit as its User. Passwords
# come from the standard input. All mounts and processes end with this script, which has its own namespaces. The ports
# 80, 443 and 8000 must be free.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --pid --fork --kill-child "$0" --inside "$@"
fi
shift
root=${GUIDE_ROOT:-$PWD/build/admin-guide}
rm -rf --one-file-system "$root"
mkdir -p "$root"
mmdebstrap --variant=minbase --include=ca-certificates bookworm "$root"

for kind in proc sysfs; do mount -t $kind $kind "$root/${kind%fs}"; done
mount --bind /dev "$root/dev"
for folder in "$@"; do
    mkdir -p "$root$folder"
    mount --bind -o ro "$folder" "$root$folder"
done
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
for file in /etc/pip.conf "${HOME:-/root}/.config/pip/pip.conf" "${HOME:-/root}/.pip/pip.conf"; do
    [ ! -e "$file" ] || cat "$file"
done | awk '!/^\[/ || !seen[$0]++' >"$root/root/pip.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/root/ca.crt"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"  # packages start no services
chmod 0755 "$root/usr/sbin/policy-rc.d"
install -m 0755 scripts/stand_in_systemctl.sh "$root/usr/bin/systemctl"

mkdir -p "$root/opt/warden/source"
git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$root/opt/warden/source"
python3 scripts/guide_blocks.py docs/admin-guide.md >"$root/root/guide.sh"
# Lines of 16 bytes: each command reads a block of the input, so that the next one starts at the beginning of a line.
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin HOME=/root LANG=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive PIP_CONFIG_FILE=/root/pip.conf PIP_CERT=/root/ca.crt \
    setsid --wait chroot "$root" /bin/bash -eux /root/guide.sh < <(yes a-long-password)
echo "The guide ran to its end."
