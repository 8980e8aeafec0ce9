#!/usr/bin/env bash
# What is checked in the container: every check prints a line, the first that fails ends it. run.sh starts it.
set -uo pipefail
cd /checks
trap 'journalctl -b -u vdsm-agentd.service -u vdsm-agentd.socket -o short-monotonic --no-pager | grep -vE "client (dis)?connected" | tail -n 60' EXIT
began=$SECONDS

say() { printf 'ok   %3d s  %s\n' "$((SECONDS - began))" "$*"; }
fail() { printf 'FAIL %s\n' "$*"; exit 1; }
check() { # check WHAT COMMAND…: the command must succeed
	local what=$1 out
	shift
	out=$("$@" 2>&1) || fail "$what: $* (exit $?): $out"
	say "$what"
}
eventually() { # eventually COMMAND…: within a minute the command succeeds
	local end=$((SECONDS + 60))
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
	done
}
property() { systemctl show -P "$1" vdsm-agentd.service; }
is() { [[ $2 == "$3" ]] || fail "$1 is $2, not $3"; }
ctl() { vdsm-agentctl "$@"; }
uuid() { cat /proc/sys/kernel/random/uuid; }
state() { ctl task "$1" --json | sed -nE 's/^ *"state": "([a-z]+)".*/\1/p' | head -n 1; }
percent() { ctl task "$1" --json | sed -nE 's/^ *"percent": ([0-9]+).*/\1/p' | head -n 1; }
half_way() { local p; p=$(percent "$1"); [[ -n $p ]] && ((p >= 10)) && [[ $(state "$1") == running ]]; }
copy() { # copy VOLUME-OF-THE-COPY: submits, slowly enough to be met half-way
	local id
	id=$(ctl Volume copy storagedomainID="$domain" imageID="$image" volumeID="$volume" dstSdUUID="$domain" dstImgUUID="$(uuid)" dstVolUUID="$1" volFormat=COW preallocate=SPARSE)
	id=${id//\"/}
	ctl limit "$id" 40M >/dev/null
	echo "$id"
}
identical() { # identical VOLUME: it is the imported disk, whole
	local file
	file=$(find /var/lib/vdsm-agent/domains -name "$1")
	qemu-img compare -f raw -F qcow2 /checks/disk.raw "$file" && qemu-img check -f qcow2 "$file"
}

# --- install ---
check "the old deb is installed" dpkg -i old.deb
is "the service" "$(property ActiveState)" active
is "the socket" "$(systemctl is-active vdsm-agentd.socket)" active
is "the service at boot" "$(systemctl is-enabled vdsm-agentd.service)" enabled
is "the group of the socket" "$(stat -c '%a %G' /run/vdsm-agent/api.sock)" "660 vdsm-agent"
is "the slice" "$(property Slice)" vdsmagent.slice
check "the daemon answers" ctl Host ping2
check "it is ready, and says so" grep -q '^ready: ' <(property StatusText)
check "workers have cgroups of their own" bash -c 'journalctl -u vdsm-agentd.service -o cat | grep -q "workers=cgroup .*vdsm-agentd.service/vdsm-agent-"'
if grep -E 'priority cannot be lowered|no cgroup can be used|cannot be told' <(journalctl -u vdsm-agentd.service -o cat); then fail "the unit keeps the daemon from something that it needs"; fi
say "nothing that the daemon needs is kept from it"
check "vdsm-agentd --version says the version" grep -q '^vdsm-agentd 0.0.1 (commit ' <(vdsm-agentd --version)

# --- work, and the journal ---
domain=$(ctl Host getStorageDomains --json | tr -d '[]" \n')
image=$(uuid) volume=$(uuid)
head -c 200M /dev/urandom >disk.raw
truncate -s 400M disk.raw
import=$(ctl Volume import storagedomainID="$domain" imageID="$image" volumeID="$volume" path=/checks/disk.raw format=raw flowID=checks)
import=${import//\"/}
check "a disk is imported" ctl wait "$import"
journalctl --sync
is "the states of the task in the journal" "$(journalctl TASK_ID="$import" -o json | grep -c '"FLOW_ID":"checks"')" "$(journalctl TASK_ID="$import" -o json | wc -l)"
check "journalctl TASK_ID= shows its life" grep -q 'state=finished' <(journalctl TASK_ID="$import" VERB=Volume.import -o cat)

# --- restart in the middle of a copy: clients at the socket wait, the copy goes on ---
v1=$(uuid)
task=$(copy "$v1")
eventually half_way "$task" || fail "the copy did not come to its middle: $(ctl task "$task")"
systemctl restart --no-block vdsm-agentd.service
for _ in $(seq 50); do ctl Host ping2 --connect-timeout 0 >/dev/null 2>ping.err || grep -q 'Recovering\|starting\|went away\|shutting' ping.err || fail "a client was refused during the restart: $(cat ping.err)"; done
say "no client is refused during a restart"
eventually test "$(property ActiveState)" = active
ctl limit "$task" none >/dev/null
check "the copy goes on after the restart and finishes" ctl wait "$task"
check "from its checkpoint" grep -q 'goes on from its checkpoint' <(journalctl TASK_ID="$task" -o cat)
check "the copy is identical" identical "$v1"

# --- stop: within seconds, nothing is lost; the next client starts it again ---
v2=$(uuid)
task=$(copy "$v2")
eventually half_way "$task" || fail "the copy did not come to its middle"
begin=$SECONDS
check "it stops in the middle of a copy" systemctl stop vdsm-agentd.service
((SECONDS - begin <= 15)) || fail "the stop took $((SECONDS - begin)) s"
is "the result of the stop" "$(property Result)" success
[[ -z $(pgrep qemu-img) ]] || fail "a worker is left: $(pgrep -a qemu-img)"
say "no worker outlives it"
check "the next client starts it" ctl Host ping2
is "the service" "$(property ActiveState)" active

# --- killed, and wedged: it is started again ---
eventually half_way "$task" || fail "the copy did not go on: $(ctl task "$task")"
restarts=$(property NRestarts)
kill -KILL "$(property MainPID)"
eventually ctl Host ping2 || fail "it did not come back after SIGKILL"
((restarts < $(property NRestarts))) || fail "systemd did not restart it"
say "it comes back after SIGKILL"
mkdir -p /run/systemd/system/vdsm-agentd.service.d
printf '[Service]\nWatchdogSec=2s\nTimeoutAbortSec=2s\n' >/run/systemd/system/vdsm-agentd.service.d/quick.conf
systemctl daemon-reload
systemctl restart vdsm-agentd.service
restarts=$(property NRestarts)
main=$(property MainPID)
kill -STOP "$main"
eventually bash -c '! kill -0 '"$main" || fail "the watchdog did not kill a daemon that hangs"
eventually ctl Host ping2 || fail "it did not come back after the watchdog"
((restarts < $(property NRestarts))) || fail "systemd did not restart it"
check "the watchdog ends a daemon that hangs, and it comes back" grep -q 'Watchdog timeout' <(journalctl -u vdsm-agentd.service -o cat)
rm -r /run/systemd/system/vdsm-agentd.service.d
systemctl daemon-reload
ctl limit "$task" none >/dev/null
check "the copy is whole after all of that" ctl wait "$task"
check "and identical" identical "$v2"

# --- reload ---
printf '[tasks]\ncopy_limit = 7\n' >/etc/vdsm-agent/conf.d/10-checks.conf
check "systemctl reload" systemctl reload vdsm-agentd.service
check "reads the configuration again" eventually bash -c 'vdsm-agentctl config show | grep -q "tasks.copy_limit *7 .*10-checks.conf:2"'
printf '[tasks]\ncopy_limit = many\n' >/etc/vdsm-agent/conf.d/10-checks.conf
systemctl reload vdsm-agentd.service
check "and refuses one that is wrong, in the journal" eventually bash -c 'journalctl --sync; journalctl -u vdsm-agentd.service -p err -o cat | grep -q "10-checks.conf:2: copy_limit"'
is "the service" "$(property ActiveState)" active
systemctl restart vdsm-agentd.service 2>/dev/null
is "a start with a wrong configuration" "$(property ExecMainStatus)" 78
rm /etc/vdsm-agent/conf.d/10-checks.conf
check "it starts when that is mended" systemctl restart vdsm-agentd.service

# --- upgrade, remove, purge ---
v3=$(uuid)
task=$(copy "$v3")
eventually half_way "$task" || fail "the copy did not come to its middle"
echo '# kept' >>/etc/vdsm-agent/vdsm-agent.conf
check "the deb is upgraded in the middle of a copy" dpkg -i --force-confdef --force-confold new.deb
eventually ctl Host ping2 || fail "it does not answer after the upgrade"
[[ $(vdsm-agentd --version) != *' 0.0.1 '* ]] || fail "the program is the old one"
check "the new one runs" test "/proc/$(property MainPID)/exe" -ef /usr/bin/vdsm-agentd
check "the configuration is kept" grep -q '^# kept' /etc/vdsm-agent/vdsm-agent.conf
ctl limit "$task" none >/dev/null
check "the copy goes on after the upgrade" ctl wait "$task"
check "and is identical" identical "$v3"
check "the store is sound" ctl store check

# --- metrics, doctor, the inhibitor lock ---
figures() { curl --silent --show-error --fail --unix-socket /run/vdsm-agent/metrics.sock http://localhost/metrics; }
check "the metrics are read" grep -q '^vdsm_agent_tasks_ended_total{outcome="success",verb="Volume.copy"} [1-9]' <(figures)
is "the mode of their socket" "$(stat -c %a /run/vdsm-agent/metrics.sock)" 660
printf '[vm]\nlibvirt = none\n[debug]\nmock_verb = true\n' >/etc/vdsm-agent/conf.d/10-checks.conf
systemctl restart vdsm-agentd.service
check "doctor finds nothing wrong" ctl doctor
check "workers have cgroups, as doctor sees it" grep -q 'cgroup *ok *workers have cgroups of their own' <(ctl doctor)
systemctl stop vdsm-agentd.socket vdsm-agentd.service
out=$(ctl doctor)
is "doctor without a daemon" "$?" 5
grep -q 'daemon *error *no daemon answers' <<<"$out" || fail "doctor says: $out"
say "doctor works without a daemon, and says so"
systemctl start vdsm-agentd.socket vdsm-agentd.service
passing=$(ctl Mock run 'steps=[{"name":"decide","slices":1,"pace":15000000000,"pointOfNoReturn":true}]')
passing=${passing//\"/}
inhibited() { systemd-inhibit --list --no-legend --no-pager | grep -q 'vdsm-agentd.*shutdown.*delay'; }
check "a shutdown is put off while a task passes its point of no return" eventually inhibited
check "the task ends" ctl wait "$passing"
check "and no longer" eventually bash -c '! systemd-inhibit --list --no-legend --no-pager | grep -q vdsm-agentd'
ctl clear "$passing" >/dev/null
rm /etc/vdsm-agent/conf.d/10-checks.conf
systemctl restart vdsm-agentd.service

# --- the guides in docs: every command of them, in its order ---
mkdir guide
cp new.deb guide/vdsm-agent_1_amd64.deb
for page in operations.md monitoring.md tls.md scripting.md integration.md; do
	ran=0
	while IFS= read -r line; do
		line=$(sed -E "s/\bTASK\b/$task/g; s/\bUSER\b/daemon/g; s/\bDOMAIN\b/$domain/g; s/\bHOST\b/localhost/g" <<<"$line")
		out=$(cd guide && bash -uec "set -o pipefail; $line" 2>&1 </dev/null) || fail "docs/$page: $line (exit $?): $out"
		ran=$((ran + 1))
	done < <(sed -n '/^```sh$/,/^```$/{/^```/!p}' "$page")
	((ran >= 8)) || fail "only $ran commands are found in docs/$page"
	say "all $ran commands of docs/$page work"
done

check "the package is removed" dpkg -r vdsm-agent
[[ ! -e /run/vdsm-agent/api.sock && ! -e /usr/bin/vdsm-agentd && -e /var/lib/vdsm-agent/tasks.db && -e /etc/vdsm-agent/vdsm-agent.conf ]] || fail "the remove left or took too much"
[[ -z $(pgrep vdsm-agentd) ]] || fail "the daemon still runs"
say "programs and sockets are gone, tasks and configuration stay"
check "it is installed again" dpkg -i new.deb
check "and has its tasks" bash -c "vdsm-agentctl task $task --log >/dev/null"
check "the package is purged" dpkg -P vdsm-agent
[[ ! -e /etc/vdsm-agent && ! -e /var/lib/vdsm-agent/tasks.db && -n $(find /var/lib/vdsm-agent/domains -name "$v3") ]] || fail "the purge left or took too much"
say "tasks and configuration are gone, disks are not"

trap - EXIT
echo "all checks passed"
