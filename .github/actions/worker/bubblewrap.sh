#!/usr/bin/env bash
# Installs bubblewrap where it is missing, and lets it make user namespaces:
# Ubuntu 24.04 refuses those to programs without an AppArmor profile. The switch
# for all programs is turned on GitHub's own machines alone, which end with the
# job. What does not succeed here is said, and the worker decides: it takes
# another sandbox, or does not start. bubblewrap.sh [FILE]: where the switch is.
set -uo pipefail

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

if ! command -v bwrap >/dev/null; then
    echo 'installing bubblewrap'
    if ! { as_root apt-get -o Acquire::Retries=3 update -qq \
        && as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -qq -y \
            --no-install-recommends bubblewrap; } >/dev/null; then
        echo '::warning title=ghcoord worker::bubblewrap could not be installed: put it into the image of this runner'
    fi
fi

restricted=${1:-/proc/sys/kernel/apparmor_restrict_unprivileged_userns}
if [ -e "$restricted" ] && [ "$(cat "$restricted")" = 1 ]; then
    if [ "${RUNNER_ENVIRONMENT:-}" != github-hosted ] \
        || ! as_root sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0; then
        echo '::warning title=ghcoord worker::user namespaces stay forbidden: give bwrap an AppArmor profile on this runner'
    fi
fi
