#!/usr/bin/env bash
# Makes what the guests of `make test-vm` boot from, once: Debian's kernel for clouds, and a file system in memory with busybox in it.
# The guest writes a number that grows, to its console and to its disk, and goes down when its power button is pressed. Usage: scripts/guest.sh DIR
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
if [[ -s $dir/kernel && -s $dir/initrd && $dir/initrd -nt ${BASH_SOURCE[0]} ]]; then
	exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
if ! image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}') || [[ -z $image ]]; then
	apt-get update -qq
	image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
fi
echo "Making the guest of the tests from Debian's packages: $image busybox-static"
apt-get download -q "$image" busybox-static 2>"$tmp/log" >&2 || { apt-get update -qq && apt-get download -q "$image" busybox-static >"$tmp/log" 2>&1; } || { cat "$tmp/log" >&2; exit 1; }
for deb in *.deb; do dpkg-deb -x "$deb" parts; done
root=$tmp/root
mkdir -p "$root"/{bin,dev,proc,sys,mod,tmp}
busybox=$(find parts -type f -path '*/bin/busybox')
cp "$busybox" "$root/bin/"
modules=(virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk evdev button)
for m in "${modules[@]}"; do
	found=$(find parts -type f -name "$m.ko*" | head -n 1)
	[[ -z $found ]] || cp "$found" "$root/mod/$m.ko" # others are in the kernel itself
done
cat >"$root/init" <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for pass in 1 2 3; do # one needs the other
	for m in ${modules[*]}; do [ ! -e /mod/\$m.ko ] || insmod /mod/\$m.ko 2>/dev/null; done
done
END
cat >>"$root/init" <<'END'
for e in /dev/input/event*; do
	(dd if=$e of=/dev/null bs=24 count=1 2>/dev/null && echo "power button" >/dev/ttyS0 && poweroff -f) &
done
fill=$(sed -n 's/.*fill=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$fill" ]; then # memory that a save must write: no page is like another
	mount -t tmpfs -o size=90% tmpfs /tmp
	i=0
	head -c 1048576 /dev/urandom >/tmp/one
	while [ $i -lt $fill ]; do i=$((i+1)); { echo $i; cat /tmp/one; } >/tmp/$i; done
fi
dirty=$(sed -n 's/.*dirty=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$dirty" ]; then # so many MiB of memory are others all the time
	mount -t tmpfs -o size=90% tmpfs /tmp
	while :; do dd if=/dev/urandom of=/tmp/dirty bs=1M count=$dirty conv=notrunc 2>/dev/null; done &
fi
n=0
while :; do
	n=$((n+1))
	echo "count $n" >/dev/ttyS0
	[ ! -e /dev/vda ] || printf '%016d\n' $n | dd of=/dev/vda bs=512 count=1 conv=sync,fsync,notrunc 2>/dev/null
	usleep 50000
done
END
chmod 755 "$root/init"
(cd "$root" && find . | "./bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$tmp/initrd"
cp parts/boot/vmlinuz-* "$dir/kernel"
mv "$tmp/initrd" "$dir/initrd"
