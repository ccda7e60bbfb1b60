#!/bin/sh
# Takes the token out of a file, so that it stands neither in the image nor in
# 'docker inspect', and becomes ghcoord.
set -eu
if [ -n "${GHCOORD_TOKEN_FILE:-}" ]; then
    GH_TOKEN=$(cat "$GHCOORD_TOKEN_FILE")
    export GH_TOKEN
    unset GHCOORD_TOKEN_FILE
fi
exec ghcoord "$@"
