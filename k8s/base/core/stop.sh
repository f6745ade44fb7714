#!/bin/sh
# The sidecar's preStop: nobody new comes to this server, those who are there move, and then the server, which
# waits for it (wait.sh), may stop. Kubernetes runs the preStop hooks of all containers of a pod at once, and
# ends the sidecar only when the server has ended.
#
#   stop.sh SIGNS COMMAND …    SIGNS: a folder that both containers see

set -u
signs=$1
shift
: >"$signs/draining"
# Whether it worked or not, the pod is going: the command has said what stayed behind.
"$@"
: >"$signs/drained"
