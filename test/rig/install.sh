#!/usr/bin/env bash
# Installs what the tests run against, at fixed versions:
#
#   test/rig/install.sh [all|test|lint]
#
# Programs go to ${BREAKWATER_RIG:-${XDG_CACHE_HOME:-~/.cache}/breakwater-rig}/bin, built from the Go module proxy;
# what is there at the right version is kept. Debian packages are installed when this runs as root with apt-get,
# else it says which ones are missing. It needs Go and a C compiler, and about 12 minutes on two cores for everything.
set -euo pipefail

what=${1:-all}
case $what in all | test | lint) ;; *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;; esac

rig=${BREAKWATER_RIG:-${XDG_CACHE_HOME:-$HOME/.cache}/breakwater-rig}
bin=$rig/bin
mkdir -p "$bin"
tmp=$(mktemp -d "$rig/build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# The caller's flags are for another module. An empty GOFLAGS would mean the one that `go env -w` has set.
export GOFLAGS=-mod=mod GOWORK=off GOBIN=$tmp/bin
failed=()

# install NAME MODULE VERSION PACKAGE [go install's flags]: the program of MODULE/PACKAGE becomes bin/NAME.
# A program says itself which version it is, so a build that was cut off, or an older one, is done again.
install() {
	local name=$1 module=$2 version=$3 pkg=$2/$4 start=$SECONDS
	shift 4
	if [ "$(go version -m "$bin/$name" 2>/dev/null | awk '$1 == "mod" {print $2 "@" $3}')" = "$module@$version" ]; then
		echo "rig: $name $version is there"
		return
	fi
	echo "rig: $name $version: building"
	if build "$module" "$version" "${pkg%/.}" "$@" >"$tmp/log" 2>&1; then
		mkdir -p "$(dirname "$bin/$name")"
		mv "$tmp"/bin/* "$bin/$name"
		echo "rig: $name $version: built in $((SECONDS - start)) s"
	else
		tail -n 20 "$tmp/log" >&2
		echo "rig: $name $version: FAILED"
		failed+=("$name")
	fi
	rm -rf "$tmp/bin"
}

# build compiles one program into $tmp/bin. `go install` refuses modules whose go.mod has exclude or replace lines,
# such as containerd 1.7; inside a module that only requires them they build.
build() {
	local module=$1 version=$2 pkg=$3
	shift 3
	case $module in
	github.com/containerd/containerd)
		rm -rf "$tmp/mod" && mkdir -p "$tmp/mod" "$tmp/bin"
		printf 'module rig\ngo 1.26\nrequire %s %s\n' "$module" "$version" >"$tmp/mod/go.mod"
		(cd "$tmp/mod" && go build -buildvcs=false "$@" -o "$tmp/bin/" "$pkg")
		;;
	*) (cd "$tmp" && go install -buildvcs=false "$@" "$pkg@$version") ;;
	esac
}

# packages installs the Debian packages that are missing, or names them.
packages() {
	local missing=()
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	if [ ${#missing[@]} = 0 ]; then
		echo "rig: packages $* are there"
	elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "rig: packages ${missing[*]}: installing"
		export DEBIAN_FRONTEND=noninteractive
		{ apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$tmp/log" 2>&1 || {
			tail -n 20 "$tmp/log" >&2
			failed+=("${missing[@]}")
		}
	else
		echo "rig: please install: ${missing[*]} (Debian's names; as root this script does)"
	fi
}

if [ "$what" != lint ]; then
	packages skopeo nginx-light libseccomp-dev pkg-config containernetworking-plugins postgresql-15
	install crane github.com/google/go-containerregistry v0.22.1 cmd/crane
	install containerd github.com/containerd/containerd/v2 v2.4.2 cmd/containerd
	CGO_ENABLED=0 install containerd-shim-runc-v2 github.com/containerd/containerd/v2 v2.4.2 cmd/containerd-shim-runc-v2
	install ctr github.com/containerd/containerd/v2 v2.4.2 cmd/ctr
	install containerd-1.7 github.com/containerd/containerd v1.7.35 cmd/containerd
	CGO_ENABLED=0 install shim-1.7/containerd-shim-runc-v2 github.com/containerd/containerd v1.7.35 cmd/containerd-shim-runc-v2
	if pkg-config --exists libseccomp 2>/dev/null; then
		install runc github.com/opencontainers/runc v1.5.2 . -tags seccomp
	else
		echo "rig: runc needs libseccomp-dev and pkg-config"
		failed+=(runc)
	fi
	CGO_ENABLED=0 install registry github.com/distribution/distribution/v3 v3.1.2 cmd/registry
	CGO_ENABLED=0 install versitygw github.com/versity/versitygw v1.8.0 cmd/versitygw
	CGO_ENABLED=0 install regctl github.com/regclient/regclient v0.11.7 cmd/regctl
	CGO_ENABLED=0 install helm helm.sh/helm/v3 v3.22.0 cmd/helm
	CGO_ENABLED=0 install cosign github.com/sigstore/cosign/v2 v2.6.5 cmd/cosign
fi
if [ "$what" != test ]; then
	install golangci-lint github.com/golangci/golangci-lint/v2 v2.15.0 cmd/golangci-lint
fi

if [ ${#failed[@]} -gt 0 ]; then
	echo "rig: missing: ${failed[*]}" >&2
	exit 1
fi
echo "rig: complete in $bin"
