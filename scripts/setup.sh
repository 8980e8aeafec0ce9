#!/usr/bin/env bash
# Installs what is missing of the programs that the project works with, from Debian's packages, and says what it does.
# Usage: scripts/setup.sh demo|test|vm|systemd
set -euo pipefail

need=()
tools=() # programs that are put into .tools alone
want() { # want PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || [[ -x /usr/sbin/$1 || -x /sbin/$1 ]] || need+=("$2")
}

case "${1:-}" in
demo)
	want qemu-img qemu-utils
	want gcc gcc
	want mke2fs e2fsprogs
	want pgrep procps
	;;
test)
	want qemu-img qemu-utils
	want gcc gcc
	want mke2fs e2fsprogs
	want mkfs.xfs xfsprogs
	want xfs_io xfsprogs
	want losetup mount
	want prlimit util-linux
	want pgrep procps
	want sqlite3 sqlite3
	want strace strace
	want systemd-socket-activate systemd
	want setpriv util-linux
	want mandoc mandoc
	want sanlock sanlock
	want zsh zsh
	want fish fish
	want curl curl
	want openssl openssl
	want dpkg-deb dpkg
	tools=(promtool)
	;;
vm)
	want qemu-img qemu-utils
	want gcc gcc
	want qemu-system-x86_64 qemu-system-x86
	want libvirtd libvirt-daemon-system
	want unshare util-linux
	want dpkg-deb dpkg
	;;
systemd)
	want mmdebstrap mmdebstrap
	want systemd-nspawn systemd-container
	want rpm rpm
	;;
*)
	echo "usage: $0 demo|test|vm|systemd" >&2
	exit 2
	;;
esac

if ! command -v go >/dev/null 2>&1; then
	echo "Go is missing. Install a current Go from https://go.dev/dl/ and try again." >&2
	exit 1
fi
if [[ $1 != demo && $(id -u) != 0 ]]; then
	echo "The tests mount file systems, make cgroups and change owners: run them as root (sudo make $([[ $1 == test ]] && echo test || echo "test-$1"))." >&2
	exit 1
fi
for tool in "${tools[@]}"; do
	if ! command -v "$tool" >/dev/null 2>&1 && [[ ! -x .tools/$tool ]]; then
		echo "Putting $tool into .tools, out of Debian's packages"
		"scripts/$tool.sh" .tools >/dev/null
	fi
done
if [[ ${#need[@]} == 0 ]]; then
	exit 0
fi

mapfile -t need < <(printf '%s\n' "${need[@]}" | sort -u)
echo "Installing from Debian's packages: ${need[*]}"
sudo=()
if [[ $(id -u) != 0 ]]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "Not root and no sudo: as root, run  apt-get install ${need[*]}" >&2
		exit 1
	fi
	echo "(sudo may ask for your password)"
	sudo=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${need[@]}"; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "The packages could not be installed; see above." >&2
	exit 1
fi
