#!/bin/sh
# Print the path of a Chromium for the browser tests; install one if there is none. BIN is the environment's bin folder.
set -eu

find_on_path() {
    for name in ${CHROMIUM:-} chromium chromium-browser google-chrome; do
        command -v "$name" && return 0
    done
    return 1
}

find_of_playwright() {
    path=$("$BIN/python" -c 'from playwright.sync_api import sync_playwright as s
with s() as p: print(p.chromium.executable_path)' 2>/dev/null) && [ -x "$path" ] && echo "$path"
}

install_from_debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "Installing Chromium" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends chromium fonts-noto-color-emoji fonts-noto-core; } >&2
}

find_on_path && exit 0
find_of_playwright && exit 0
install_from_debian && find_on_path && exit 0
"$BIN/playwright" install chromium >&2 && find_of_playwright && exit 0

echo "The browser tests need Chromium and none could be installed: install it by hand, or name one: make test CHROMIUM=/path" >&2
exit 1
