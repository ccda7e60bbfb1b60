#!/usr/bin/env bash
# Becomes 'ghcoord actions submit' with the inputs of this action.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../lib
. "$(dirname "${BASH_SOURCE[0]}")/../lib/arguments.sh"

if [ -n "$BATCH" ] && [ -z "$FOLDER" ] && [ "${BATCH#/}" = "$BATCH" ]; then
    BATCH=$GITHUB_WORKSPACE/$BATCH
fi
option args-json "$ARGS"
option options "$OPTIONS"
option batch "$BATCH"
option batch-id "$BATCH_ID"
flag no-wait "$(opposite "$WAIT")" wait
option wait-timeout "$WAIT_TIMEOUT"
flag keep "$KEEP"
flag allow-failure "$ALLOW_FAILURE"
if [ -n "$TOOL" ]; then arguments+=(-- "$TOOL"); fi
exec "$PROGRAM" actions submit "${arguments[@]}"
