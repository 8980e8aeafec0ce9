#!/usr/bin/env bash
# Speed and memory, as ratios within one run: shared machines are too noisy for anything else.
# BENCH_DIR: where the images are made (10 GiB are needed); a temporary directory of the current file system by default.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d "${BENCH_DIR:-$PWD}/.bench-XXXXXX")
trap '{ umount "$dir/xfs" 2>/dev/null || true; rm -rf "$dir"; }' EXIT

echo "== copies: sliced with checkpoints / plain qemu-img convert"
go run ./storageops/copy/copybench -dir "$dir"
echo
echo "== the same on xfs, where blocks can be shared: raw to raw, goal under 0.05"
truncate -s 16G "$dir/xfs.img"
mkfs.xfs -q "$dir/xfs.img"
mkdir "$dir/xfs"
mount -o loop "$dir/xfs.img" "$dir/xfs"
go run ./storageops/copy/copybench -dir "$dir/xfs" -formats raw:raw
umount "$dir/xfs"
rm "$dir/xfs.img"
echo
echo "== a chain of three volumes moved, and copied by a job, and a copy whose daemon is killed"
go run ./test/chainbench bin/vdsm-agentd "$dir"
rm -r "$dir/chain"
echo
echo "== storage verbs that move no data"
go run ./test/domainbench bin/vdsm-agentd bin/vdsm-agentctl "$dir"
echo
echo "== copies with a limit: how much of it is used, goal 0.8 to 1.05"
go run ./storageops/copy/copybench -dir "$dir" -data 512 -limit 32
echo
echo "== the engine and one synced SQLite transaction per request, by turns on the same disk"
go run ./test/enginebench bin/vdsm-agentd "$dir"
echo
echo "== the daemon with 100,000 uncleared tasks"
go run ./test/manybench bin/vdsm-agentd "$dir"
echo
echo "== the daemon over STOMP, and a bare server that answers the same bytes"
go run ./test/rpcbench bin/vdsm-agentd "$dir"
echo
echo "== the daemon: stop of a running copy, and memory"
go run ./test/daemonbench bin/vdsm-agentd "$dir"
