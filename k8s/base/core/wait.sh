#!/bin/sh
# The server's preStop: waits until the sidecar has moved everybody away (stop.sh), for LIMIT seconds at most.
# When the server alone is restarted, because it no longer answers, no sidecar drains and nothing is waited for.
#
#   wait.sh SIGNS LIMIT

signs=$1
limit=$2
waited=0
until [ -e "$signs/draining" ]; do
  [ "$waited" -lt 3 ] || exit 0
  sleep 1
  waited=$((waited + 1))
done
until [ -e "$signs/drained" ] || [ "$waited" -ge "$limit" ]; do
  sleep 1
  waited=$((waited + 1))
done
