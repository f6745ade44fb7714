#!/bin/sh
# Makes a snapshot of a server that may be running, from which empty volumes are filled. The one before stays
# until the new one is whole; a run that was interrupted is gone on with.
#
#   snapshot.sh VOLUME PLACE       PLACE/jellyfin is the snapshot

set -eu
volume=$1
place=$2
marker=.jellyfin-jellybloom-seed-incomplete

# A whole copy that was not put into place is older than the server is now.
if [ -e "$place/next" ] && [ ! -e "$place/next/$marker" ]; then rm -rf "$place/next"; fi
jellybloom seed --from "$volume" --to "$place/next" --seen-as /config
rm -rf "$place/former"
if [ -e "$place/jellyfin" ]; then mv "$place/jellyfin" "$place/former"; fi
mv "$place/next" "$place/jellyfin"
rm -rf "$place/former"
echo "The snapshot is in $place/jellyfin."
