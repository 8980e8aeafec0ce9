#!/usr/bin/env bash
# The daemon in the foreground on .run, for a person to play with.
set -euo pipefail
cd "$(dirname "$0")/.."
state=$PWD/.run
cat <<END
The daemon starts in the foreground; Ctrl-C ends it. Its state is in $state. In another terminal try:

  export VDSM_AGENT_SOCKET=$state/api.sock
  $PWD/bin/vdsm-agentctl domains
  $PWD/bin/vdsm-agentctl Volume import storagedomainID=DOMAIN path=/some/disk.qcow2 format=cow
  $PWD/bin/vdsm-agentctl watch

END
exec bin/vdsm-agentd --state-dir "$state"
