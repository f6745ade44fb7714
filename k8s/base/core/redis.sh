#!/bin/sh
# Starts Redis with the settings beside this file and the password from the address in the secret `redis-url`,
# so that the password is written down once. It ends up in a file in memory, never among the arguments.
#
#   redis.sh SETTINGS REDIS_URL_FILE MADE_SETTINGS

set -eu
settings=$1
url_file=$2
made=$3

password=$(sed -n 's|^redis://:\([0-9A-Za-z_-]\{32,\}\)@.*$|\1|p' "$url_file")
if [ -z "$password" ]; then
  echo "redis-url must be redis://:PASSWORD@redis:6379/0, with a password of 32 or more letters and digits." >&2
  exit 1
fi
{ cat "$settings" && printf 'requirepass %s\n' "$password"; } >"$made"

# The image's own start, where there is one: run as root (compose.yaml) it gives /data to the user redis and
# becomes that user.
if command -v docker-entrypoint.sh >/dev/null; then exec docker-entrypoint.sh redis-server "$made"; fi
exec redis-server "$made"
