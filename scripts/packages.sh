#!/usr/bin/env bash
# Builds the deb and the rpm of this commit in DIST (default dist). Two builds of one commit are the same, byte for byte: everything in them has
# the commit's date.
# VERSION: the packages' version; by default that of the last tag, or the commit's date and id.
set -euo pipefail
cd "$(dirname "$0")/.."
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
dist=${DIST:-dist}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
VERSION=$(scripts/version.sh)
GOARCH=$(go env GOARCH)
LAYOUT=$(mktemp -d)
trap 'rm -rf "$LAYOUT"' EXIT
export SOURCE_DATE_EPOCH VERSION GOARCH LAYOUT

mkdir -p "$LAYOUT/usr/bin" "$LAYOUT/completion" "$dist"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $(scripts/version.sh ldflags)" -o "$LAYOUT/usr/bin/" ./cmd/...
for page in docs/man/*; do
	section=$LAYOUT/usr/share/man/man${page##*.}
	mkdir -p "$section"
	gzip -9n <"$page" >"$section/${page##*/}.gz"
done
for shell in bash zsh fish; do
	"$LAYOUT/usr/bin/vdsm-agentctl" completion "$shell" >"$LAYOUT/completion/$shell"
done
find "$LAYOUT" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
for format in deb rpm; do
	go run "$nfpm" package --config packaging/nfpm.yaml --packager "$format" --target "$dist/" >"$LAYOUT/log"
	sed -n 's/^created package: //p' "$LAYOUT/log"
done
