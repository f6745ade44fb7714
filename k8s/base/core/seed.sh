#!/bin/sh
# Fills a server's empty volume from the snapshot, before the server starts in it for the first time. A volume
# that holds a server is left as it is; an interrupted copy is gone on with.
#
#   seed.sh SNAPSHOT VOLUME        with POD_NAME, and FIRST_SERVER=import|new
#
# While there is no snapshot it waits, because a server that starts empty beside others is no copy of them.
# The one exception is the first server of a cluster that is new altogether.

set -eu
snapshot=$1
volume=$2
marker=.jellyfin-jellybloom-seed-incomplete
# A shell that waits in the foreground would hear the end of its pod only afterwards.
trap 'exit 143' TERM INT

if [ ! -e "$volume/$marker" ] && { [ -e "$volume/data/device.txt" ] || [ -e "$volume/data/jellyfin.db" ]; }; then
  echo "The volume of $POD_NAME holds a server: nothing to do."
  exit 0
fi

waited=0
until [ -e "$snapshot/data/device.txt" ] && [ ! -e "$snapshot/$marker" ]; do
  if [ "$FIRST_SERVER" = new ] && [ "${POD_NAME##*-}" = 0 ]; then
    echo "There is no snapshot: $POD_NAME starts as a new server, to be set up by its owner."
    exit 0
  fi
  if [ $((waited % 60)) = 0 ]; then
    echo "$POD_NAME waits for a snapshot in $snapshot. k8s/README.md says how one is made."
  fi
  sleep 5 >/dev/null 2>&1 &
  wait $!
  waited=$((waited + 5))
done

exec jellybloom seed --from "$snapshot" --to "$volume" --seen-as /config
