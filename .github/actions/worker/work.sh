#!/usr/bin/env bash
# Becomes 'ghcoord actions worker' with the inputs of this action.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../lib
. "$(dirname "${BASH_SOURCE[0]}")/../lib/arguments.sh"

option id "$WORKER_ID"
option job-limit "$JOB_LIMIT"
option until-idle "$UNTIL_IDLE"
option max-runtime "$MAX_RUNTIME"
option drain "$DRAIN"
option slots "$SLOTS"
option max-sessions "$MAX_SESSIONS"
each type "$TYPES"
each label "$LABELS"
each limit "$LIMITS"
flag no-commands "$(opposite "$COMMANDS")" commands
if [ "$COMMANDS" = true ]; then option sandbox "$SANDBOX"; fi
flag quiet "$QUIET"
flag fail-on-failure "$FAIL_ON_FAILURE"
exec "$PROGRAM" actions worker "${arguments[@]}"
