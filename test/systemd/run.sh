#!/usr/bin/env bash
# Boots real systemd in a container with the deb of this commit, and runs checks.sh in it. As root; `make test-systemd` calls it.
# ROOT_CACHE: where the container's root is kept, which is made once of Debian's packages; it is made anew when their list changes.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${ROOT_CACHE:-/var/cache/vdsm-agent-test}
packages=systemd,systemd-sysv,dbus,udev,procps,qemu-utils,sqlite3,curl,openssl,jq
root=$cache/bookworm-$(sha256sum <<<"$packages" | cut -c1-12)

work=$(mktemp -d)
container=
cleanup() {
	status=$?
	if [[ -n $container ]]; then kill -KILL "$container" 2>/dev/null || true; wait "$container" 2>/dev/null || true; fi
	for cgroup in "${cgroups[@]}"; do
		{ [[ ! -e $cgroup/cgroup.kill ]] || echo 1 >"$cgroup/cgroup.kill"; } 2>/dev/null || true
		find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
	umount -q "$work/root" || true
	umount -q "$work/tmp" || true
	rm -rf "$work"
	exit "$status"
}
cgroups=()
trap cleanup EXIT
trap 'exit 1' INT TERM

# One of several runs at a time makes it; the others wait for it. Those of former lists stay, since another run may be on one.
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [[ ! -e $root ]]; then
	echo "making $root of Debian's packages"
	rm -rf "$root.new"
	mmdebstrap --quiet --variant=apt --include="$packages" bookworm "$root.new"
	mv "$root.new" "$root"
fi
exec 9>&-

echo "building the packages: an old version, this one, and this one once more"
VERSION=0.0.1 DIST=$work/old scripts/packages.sh >/dev/null
DIST=$work/new scripts/packages.sh
DIST=$work/again scripts/packages.sh >/dev/null
diff -r "$work/new" "$work/again" || { echo "test-systemd: two builds of one commit differ" >&2; exit 1; }
rpm -qlp "$work"/new/*.rpm | grep -x /usr/lib/systemd/system/vdsm-agentd.service >/dev/null # not -q, which ends before rpm does
rpm -qlp "$work"/new/*.rpm | grep -x /usr/share/vdsm-agent/prometheus/vdsm-agent.rules.yml >/dev/null
rpm -qp --scripts "$work"/new/*.rpm | grep "systemd-sysusers vdsm-agent.conf" >/dev/null

# A root of its own over the one that is kept, so that nothing is left in that.
mkdir "$work/tmp" "$work/root"
mount -t tmpfs -o size=3G tmpfs "$work/tmp"
mkdir "$work/tmp/upper" "$work/tmp/work"
mount -t overlay -o "lowerdir=$root,upperdir=$work/tmp/upper,workdir=$work/tmp/work" overlay "$work/root"
mkdir "$work/root/checks"
cp "$work"/old/*.deb "$work/root/checks/old.deb"
cp "$work"/new/*.deb "$work/root/checks/new.deb"
echo "127.0.0.1 localhost" >"$work/root/etc/hosts"
cp test/systemd/checks.sh docs/{operations,monitoring,tls,scripting,integration}.md "$work/root/checks/"
cat >"$work/root/etc/systemd/system/checks.service" <<'END'
[Unit]
Description=The checks
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /checks/checks.sh
StandardOutput=file:/checks/output
StandardError=file:/checks/output
ExecStopPost=/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
END
ln -s /etc/systemd/system/checks.service "$work/root/etc/systemd/system/multi-user.target.wants/checks.service"
for unit in console-getty.service getty@.service systemd-networkd.service systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer; do
	ln -sf /dev/null "$work/root/etc/systemd/system/$unit"
done

# The container is in a cgroup of its own, of each hierarchy that it needs.
for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
	[[ -e $hierarchy/cgroup.procs ]] || continue
	cgroup=$hierarchy/vdsm-agent-test-$$
	mkdir "$cgroup"
	cgroups+=("$cgroup")
done
: >"$work/root/checks/output"
(
	for cgroup in "${cgroups[@]}"; do echo "$BASHPID" >"$cgroup/cgroup.procs"; done
	SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --register=no --keep-unit -q -b -D "$work/root" --private-network --console=pipe
) </dev/null >"$work/console" 2>&1 &
container=$!
tail -f -n +1 --pid="$container" "$work/root/checks/output" || true
wait "$container" || { tail -n 30 "$work/console" >&2; echo "test-systemd: the container ended badly" >&2; exit 1; }
container=
if ! grep -qx 'all checks passed' "$work/root/checks/output"; then
	tail -n 30 "$work/console" >&2
	echo "test-systemd: a check failed; see above" >&2
	exit 1
fi
