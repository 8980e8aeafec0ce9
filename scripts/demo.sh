#!/usr/bin/env bash
# The main job on a real disk image, as a person would do it by hand. Exits non-zero if anything is not as it is said.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

base=${DEMO_DIR:-$PWD/.demo}
state=$base/state
bold='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi

say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
info() { printf '   %s\n' "$*"; }
die() {
	printf 'demo: %s\n' "$*" >&2
	[[ -f $base/daemon.log ]] && { echo "the end of the daemon's log:" >&2; tail -n 15 "$base/daemon.log" >&2; }
	exit 1
}
ctl() { bin/vdsm-agentctl --socket "$state/api.sock" "$@"; }
uuid() { cat /proc/sys/kernel/random/uuid; }

# value KEY: the first value of "KEY": in the JSON on standard input, without quotes.
value() { sed -nE "s/^ *\"$1\": *\"?([^\",]*)\"?,?\$/\1/p" | head -n 1; }

daemon=
start_daemon() {
	bin/vdsm-agentd --state-dir "$state" 2>>"$base/daemon.log" &
	daemon=$!
	until ctl Host ping >/dev/null 2>&1; do
		kill -0 "$daemon" 2>/dev/null || die "the daemon did not start"
	done
}
stop_daemon() {
	[[ -n $daemon ]] || return 0
	kill -TERM "$daemon"
	wait "$daemon" || die "the daemon did not end well"
	daemon=
}
cleanup() {
	status=$?
	if [[ -n $daemon ]]; then kill -KILL "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
	[[ $status == 0 ]] && rm -rf "$base"
	exit "$status"
}
trap cleanup EXIT

# half_way TASK: returns when the task has copied at least 40 %; fails if it ended before.
half_way() {
	while :; do
		json=$(ctl task "$1" --json)
		case $(value state <<<"$json") in
		finished | recovered | failed) return 1 ;;
		esac
		percent=$(value percent <<<"$json")
		[[ ${percent%%.*} -ge 40 ]] 2>/dev/null && return 0
	done
}
volume_path() { echo "$state/domains/$domain/images/$1/$2"; }
copy() { # copy IMAGE VOLUME: a new qcow2 copy of the imported volume; prints the task's id
	ctl Volume copy storagedomainID="$domain" imageID="$image" volumeID="$volume" dstSdUUID="$domain" dstImgUUID="$1" dstVolUUID="$2" \
		volFormat=COW preallocate=SPARSE | tr -d '"'
}
same() { # same FILE FORMAT: it is the imported disk, and sound
	qemu-img compare -f raw -F "$2" "$base/disk.raw" "$1" | sed 's/^/   qemu-img compare: /' || die "$1 differs from the disk that was imported"
	qemu-img compare -q -f raw -F "$2" "$base/disk.raw" "$1" || die "$1 differs from the disk that was imported"
	if [[ $2 == qcow2 ]]; then
		qemu-img check -q -f qcow2 "$1" || die "$1 is damaged"
		info "qemu-img check: no errors"
	fi
}

rm -rf "$base"
mkdir -p "$base"

say "A real disk: an ext4 file system with files of this machine"
for source in /usr/lib /usr/share /usr "$(go env GOROOT)"; do
	used=$(du -sxm "$source" 2>/dev/null | cut -f1)
	if ((used >= 600 && used <= 3000)); then break; fi
done
size=$((used + used / 4 + 512))
if ((size < 2048)); then size=2048; fi
mke2fs -q -t ext4 -d "$source" -F "$base/disk.raw" "${size}M" || die "mke2fs could not make the file system"
info "$base/disk.raw: $((size)) MiB virtual, about $used MiB of files from $source"

say "The daemon, on a state directory of its own, with nothing configured"
start_daemon
info "vdsm-agentd has pid $daemon and answers on $state/api.sock"
ctl domains
domain=$(ctl Host getStorageDomains | tr -d '[]" \n')
[[ -n $domain ]] || die "there is no local domain"

say "Import the disk as a raw volume"
image=$(uuid) volume=$(uuid)
task=$(ctl Volume import storagedomainID="$domain" imageID="$image" volumeID="$volume" path="$base/disk.raw" format=raw | tr -d '"')
ctl watch "$task"
same "$(volume_path "$image" "$volume")" raw

say "Copy it to a qcow2 volume"
image1=$(uuid) volume1=$(uuid)
first=$(copy "$image1" "$volume1")
ctl watch "$first"
same "$(volume_path "$image1" "$volume1")" qcow2

say "Start a second copy and stop it half-way"
for _ in 1 2 3 4 5; do
	image2=$(uuid) volume2=$(uuid)
	second=$(copy "$image2" "$volume2")
	if half_way "$second"; then
		info "what a stop would do now:"
		ctl stop "$second" --dry-run | sed 's/^/   /'
		ctl stop "$second" --wait && stopped=yes && break
		info "(it finished before the stop came; once more)"
	fi
done
[[ ${stopped:-} == yes ]] || die "the copy could not be stopped half-way"
ctl task "$second" | grep -E '^(State|Message)' | sed 's/^/   /'
[[ $(ctl task "$second" --json | value state) == recovered ]] || die "the stopped task is not recovered"
[[ ! -e $state/domains/$domain/images/$image2 ]] || die "the stopped copy left its image"
[[ -z $(pgrep -f "$volume2" || true) ]] || die "something still works on the stopped copy"
reclaim=$(ctl task "$second" --json | value deferred)
[[ -z $reclaim ]] || ctl wait "$reclaim" >/dev/null 2>&1 || true # it clears itself when it is done
[[ -z $(find "$state/domains/$domain" -name "*$volume2*") ]] || die "the stopped copy left files"
info "nothing is left of it: no file, no process"

say "Start a third copy and kill the daemon (SIGKILL) in the middle"
for _ in 1 2 3 4 5; do
	image3=$(uuid) volume3=$(uuid)
	third=$(copy "$image3" "$volume3")
	if half_way "$third"; then
		kill -KILL "$daemon"
		wait "$daemon" 2>/dev/null || true
		daemon=
		killed=yes
		break
	fi
done
[[ ${killed:-} == yes ]] || die "the daemon could not be killed in the middle of a copy"
info "the daemon is dead; starting it again"
start_daemon
json=$(ctl task "$third" --json)
info "the task is $(value state <<<"$json"); its last checkpoint is of $(value lastCheckpoint <<<"$json")"
ctl watch "$third"
[[ $(ctl task "$third" --json | value state) == finished ]] || die "the copy did not finish after the restart"
resumed=$(grep -c '"message":"the copy goes on from its checkpoint"' "$base/daemon.log" || true)
((resumed >= 1)) || die "the copy did not resume from its checkpoint"
grep '"message":"the copy goes on from its checkpoint"' "$base/daemon.log" | tail -n 1 |
	sed -E 's/.*"done":([0-9]+).*"total":([0-9]+).*/\1 \2/' | { read -r d t && info "it went on at $((d >> 20)) of $((t >> 20)) MiB, not from the start"; }
same "$(volume_path "$image3" "$volume3")" qcow2

say "Revert the first copy, which had finished"
ctl revert "$first" --wait
[[ ! -e $state/domains/$domain/images/$image1 ]] || die "the reverted copy is still there"
info "its volume is in the trash until the task is cleared:"
ctl trash list | sed 's/^/   /'

say "Delete the imported volume, and take the delete back"
delete=$(ctl Volume delete storagedomainID="$domain" imageID="$image" volumeID="$volume" | tr -d '"')
ctl wait "$delete"
[[ ! -e $(volume_path "$image" "$volume") ]] || die "the deleted volume is still there"
ctl trash restore "$delete" --wait
same "$(volume_path "$image" "$volume")" raw

say "Clear the tasks and stop"
ctl tasks --all
ctl clear --finished
until [[ $(ctl trash list --json | tr -d ' \n') == '[]' ]]; do :; done
info "the trash is empty"
stop_daemon
info "the daemon has ended"
say "Everything was as it should be."
