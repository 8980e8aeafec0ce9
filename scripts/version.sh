#!/usr/bin/env bash
# What is built: its version (of the last tag, or made of the commit's date and id), and with "ldflags" the flags that write it, the commit and its
# date into the programs. Outside of a checkout nothing is known.
# VERSION: another version.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse HEAD 2>/dev/null || true)
if [[ -z $commit ]]; then
	[[ ${1:-} == ldflags ]] || echo "${VERSION:-0.0.0}"
	exit 0
fi
date=$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)
version=${VERSION:-$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-/+/; s/-/./g' || true)}
version=${version:-0.0.0+${date//[^0-9]/}.${commit:0:7}}
if [[ ${1:-} == ldflags ]]; then
	at=vdsm-agent/internal/version
	echo "-X $at.version=$version -X $at.commit=$commit -X $at.date=$date"
else
	echo "$version"
fi
