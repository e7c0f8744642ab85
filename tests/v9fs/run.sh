#!/usr/bin/env bash
# Mounts the built gofer with Linux's own client, in a guest kernel that runs as a process, and runs suites on it.
#
#   tests/v9fs/run.sh ci             what CI runs
#   tests/v9fs/run.sh all            every suite, on each tree with each cache; the shorter ones with each access and msize too
#   tests/v9fs/run.sh [SUITE...]     these, where CONFIG says (default: tmpfs-none-client-131072, which is tree, cache, access, msize;
#                                    then -devices: the gofer keeps its capabilities and makes devices, which it refuses otherwise)
#
# SERVER=diod or SERVER=none shows what another server, or the tree by itself, makes of it: nothing is judged then.
# GOFER_BIN is another gofer than target/gofer; GOFER_LOG=1 keeps the log of all requests. Logs and results are in target/v9fs/.
#
# A failure that expected.txt does not list fails the run, and so does a listed one that passes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export TOP=$PWD SERVER=${SERVER-gofer}

suites=$(sed -n 's/^suite_\([a-z_]*\)() .*/\1/p' tests/v9fs/smoke.sh tests/v9fs/suites.sh)
limit=${LIMIT-600} # seconds that one suite may take

say() { printf '%s\n' "$*"; }
die() { printf 'v9fs: %s\n' "$*" >&2; exit 1; }

# A guest with a tree and mount options, TREE-CACHE-ACCESS-MSIZE[-devices], that runs suites and ends.
guest() {
    local config=$1 out=target/v9fs/$SERVER-$1 begun=$SECONDS status=0 words disk=()
    shift
    IFS=- read -ra words <<<"$config"
    rm -rf "$out"
    mkdir -p "$out"
    if [ "${words[0]}" = ext4 ]; then
        truncate -s 2G "$out/disk"
        disk=("ubd0=$out/disk")
    fi
    # Memory of the guest is a file, deleted at once: in memory where there is enough of it.
    local memory=/dev/shm
    [ -w $memory ] && [ "$(df --output=avail $memory | tail -n 1)" -gt 1500000 ] || memory=$TOP/target/v9fs
    # Words that the kernel does not know are the environment of its init.
    TMPDIR=$memory timeout -k 10 "$((limit * $# + 60))" linux.uml mem=1200M root=/dev/root rootfstype=hostfs rootflags=/ ro quiet \
        "${disk[@]}" con=null con0=null,fd:1 init="$TOP/tests/v9fs/guest.sh" TOP="$TOP" OUT="$TOP/$out" \
        SERVER="$SERVER" GOFER_BIN="${GOFER_BIN-}" GOFER_LOG="${GOFER_LOG-}" GOFER_TRACES="${GOFER_TRACES-}" LIMIT="$limit" FSX_STEPS="${FSX_STEPS-10000}" \
        BACKING="${words[0]}" CACHE="${words[1]}" ACCESS="${words[2]}" MSIZE="${words[3]}" DEVICES="${words[4]-}" \
        SUITES="$(IFS=,; say "$*")" </dev/null >"$out/console.log" 2>&1 || status=$?
    rm -f "$out/disk"
    say "$((SECONDS - begun))" >"$out/total"
    if [ ! -e "$out/done" ]; then
        printf 'FAIL guest::ends status %s after %s s\n' "$status" "$((SECONDS - begun))" >>"$out/results"
    fi
}

# The log of one case, which begins with "== CASE"; that of pjdfstest has what the reason has.
show_case() {
    awk -v name="== ${2#*::}" '/^== / { on = $0 == name } on' "$1/${2%%::*}.log" 2>/dev/null | tail -n 25 | sed 's/^/      /' || true
}

# Says what came out for one configuration; false if anything is not as expected.txt has it.
judge() {
    local config=$1 out=target/v9fs/$SERVER-$1 good=true case configs reason status
    local -A expected=() seen=()
    shift
    while read -r case configs reason; do
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $case && $case != \#* && $config == $configs ]] && expected[$case]=$reason
    done <tests/v9fs/expected.txt
    while read -r status case reason; do
        seen[$case]=$status
        [ "$SERVER" = gofer ] || { [ "$status" != FAIL ] || say "  $config: $case: $reason"; continue; }
        case $status-${expected[$case]+listed} in
            FAIL-) good=false; say "  $config: $case FAILED: $reason"; show_case "$out" "$case" ;;
            ok-listed) good=false; say "  $config: $case passes, expected.txt says that it cannot" ;;
        esac
    done <"$out/results"
    [ "$SERVER" = gofer ] || expected=()
    for case in "${!expected[@]}"; do
        [[ " $* " != *" ${case%%::*} "* ]] || [ -n "${seen[$case]-}" ] || { good=false; say "  $config: $case in expected.txt did not run"; }
    done
    say "$config: $(grep -c '^ok ' "$out/results") ok, $(grep -c '^FAIL ' "$out/results") failed, $(grep -c '^skipped ' "$out/results") skipped;" \
        "$(tr '\n' ' ' <"$out/seconds" 2>/dev/null) total $(cat "$out/total") s"
    if ! $good; then
        say "  logs: $out"
        [ -e "$out/done" ] || tail -n 20 "$out/console.log" "$out/guest.log" "$out"/*.log
    fi
    $good
}

# Runs lines of "CONFIG SUITE..." from the standard input, one guest for each processor at a time.
run_plan() {
    local line plan=() good=true
    while read -r line; do plan+=("$line"); done
    for line in "${plan[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
        # shellcheck disable=SC2086 # words
        guest $line &
    done
    wait
    # shellcheck disable=SC2086 # words
    for line in "${plan[@]}"; do judge $line || good=false; done
    $good
}

ci_plan() {
    say tmpfs-none-client-131072 smoke pjdfstest fsx sqlite fio git tar
    say ext4-mmap-acl-131072-devices smoke pjdfstest sqlite
}

all_plan() {
    local tree cache access msize
    for tree in tmpfs ext4; do
        # shellcheck disable=SC2086 # words
        for cache in none mmap loose; do say $tree-$cache-client-131072 $suites; done
        for access in client user acl; do
            for msize in 8192 131072 1048576; do
                for cache in none mmap loose; do
                    [ $access-$msize = client-131072 ] || say $tree-$cache-$access-$msize-devices smoke pjdfstest fsx sqlite tar
                done
            done
        done
    done
}

command -v linux.uml >/dev/null || die "no linux.uml: ./build.sh v9fs installs it"
[[ $TOP != *' '* ]] || die "the guest's command line cannot take the space in $TOP"
[ "$(id -u)" -eq 0 ] || die "the guest sees this root: run it as root"
case ${1-} in
    ci) export FSX_STEPS=1000; ci_plan | run_plan ;;
    all) all_plan | run_plan ;;
    "") die "which suites? ${suites//$'\n'/ }, ci or all" ;;
    *)
        for suite in "$@"; do
            grep -qx "$suite" <<<"$suites" || die "no suite $suite; there are ${suites//$'\n'/ }, ci and all"
        done
        for config in ${CONFIG-tmpfs-none-client-131072}; do say "$config $*"; done | run_plan
        ;;
esac
