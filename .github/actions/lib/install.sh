#!/usr/bin/env bash
# Installs ghcoord from the checkout that this action is part of: install.sh [EXTRAS]
#
# EXTRAS as in pip's brackets: "worker", "worker,otel". Prints the folder of the
# program, and nothing else, on standard output. A job's actions share what is
# installed, below RUNNER_TEMP, which the runner empties between jobs: no job
# runs what another one left. GHCOORD_INSTALLED names the folder of a program
# that is there already, in an image of your own; then nothing is installed.
set -euo pipefail

extras=${1:-}
if [ -n "${GHCOORD_INSTALLED:-}" ]; then
    "$GHCOORD_INSTALLED/ghcoord" --version >/dev/null
    printf '%s\n' "$GHCOORD_INSTALLED"
    exit 0
fi

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
place=${RUNNER_TEMP:?this script runs in a job of GitHub Actions}/ghcoord-installed
name=core${extras:+-${extras//[!a-z0-9]/-}}

python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo 'ghcoord needs Python 3.11 or newer with venv: put actions/setup-python before this step' >&2
    exit 1
fi

mkdir -p "$place"
# Here and isolated (-I): no file of what is checked out is imported.
cd "$place"
# Two steps in the background may install at a time.
if command -v flock >/dev/null; then
    exec 9>"$place/$name.lock"
    flock 9
fi
if [ ! -e "$place/$name/complete" ]; then
    echo "installing ghcoord${extras:+[$extras]}" >&2
    rm -rf "${place:?}/$name" "$place/$name.source"
    mkdir "$place/$name.source"
    # A copy: the build leaves folders behind.
    cp -R "$checkout/ghcoord" "$checkout/pyproject.toml" "$checkout/README.md" "$checkout/LICENSE" "$place/$name.source"
    "$python" -I -m venv "$place/$name" >&2
    # The token is no business of a package's build.
    env -u GH_TOKEN -u GITHUB_TOKEN -u GH_ENTERPRISE_TOKEN -u GITHUB_ENTERPRISE_TOKEN \
        "$place/$name/bin/python" -I -m pip --disable-pip-version-check --no-input install --quiet \
        "$place/$name.source${extras:+[$extras]}" >&2
    rm -rf "$place/$name.source"
    touch "$place/$name/complete"
fi
printf '%s\n' "$place/$name/bin"
