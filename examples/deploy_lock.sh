#!/bin/sh
# Deploy one version at a time: ./deploy_lock.sh 1.4
#
# Needs GHCOORD_HUB. Waits five minutes for the lock, is ended when the lease
# is lost, and can then no longer record the version: the write is fenced.
set -eu

version=${1:?usage: deploy_lock.sh VERSION}
: "${GHCOORD_HUB:?set it to the folder of the hub}"

exec ghcoord lock run deploy --ttl 1m --wait 5m -- sh -eu -c '
    echo "deploying $1 under token $GHCOORD_FENCING_TOKEN"
    # Your deployment goes here.
    ghcoord memory set deployed "$1" --fence "$GHCOORD_LOCK:$GHCOORD_FENCING_TOKEN"
' deploy "$version"
