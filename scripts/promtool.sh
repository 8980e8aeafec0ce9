#!/usr/bin/env bash
# Puts promtool, which checks the alert rules, into DIR: out of Debian's package, which would also start a server if it were installed.
# Usage: scripts/promtool.sh DIR
set -euo pipefail
mkdir -p "$1"
dir=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download prometheus 2>/dev/null || { apt-get update && apt-get download prometheus; }
dpkg-deb -x ./*.deb .
install usr/bin/promtool "$dir/promtool"
