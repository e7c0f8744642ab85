#!/usr/bin/env bash
# Mounts the built gofer with Linux's own client, in guest kernels that run as processes, and runs suites on it.
#
#   tests/v9fs/run.sh [--kernel K] ci           what CI runs
#   tests/v9fs/run.sh [--kernel K] all          every suite, on each kernel with each cache; on 6.1 each tree, access and msize too
#   tests/v9fs/run.sh [--kernel K] SUITE...     these, where CONFIG says (default: tmpfs-none-client-131072, which is tree, cache,
#                                               access, msize; then -devices: the gofer keeps its capabilities and makes devices,
#                                               which it refuses otherwise)
#
# K is 6.1, 6.12, 7.2 or all (default: 6.1 for named suites, each that the plan has for ci and all). A word of CONFIG may begin with
# the kernel, as logs and expected.txt have it: CONFIG="6.1-tmpfs-none-client-131072 7.2-ext4-mmap-user-8192".
#
# all keeps each suite's result in GOFER_CACHE and takes it from there as long as nothing has changed that it depends on, so a run that
# was stopped goes on where it was. It runs diod beside ours, and ends with a table of both.
#
# SERVER=diod or SERVER=none shows what another server, or the tree by itself, makes of it: nothing is judged then. With all, SERVER=gofer
# or SERVER=diod is the half to run.
# GOFER_BIN is another gofer than target/gofer; GOFER_LOG=1 keeps the log of all requests. Logs and results are in target/v9fs/.
# GOFER_CACHE is the folder for kernels and for results of all (default: $XDG_CACHE_HOME/gofer, ~/.cache/gofer).
#
# The suite power is a guest by itself, which does not end but is killed.
#
# A failure that expected.txt does not list fails the run, and so does a listed one that passes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export TOP=$PWD

suites=$(sed -n 's/^suite_\([a-z_]*\)() .*/\1/p' tests/v9fs/*.sh | xargs)
limit=${LIMIT-600}        # seconds that one suite may take; in all, where Go's os suite runs, 1800
steps=${FSX_STEPS-10000} # of fsx

say() { printf '%s\n' "$*"; }
die() { printf 'v9fs: %s\n' "$*" >&2; exit 1; }

# shellcheck source=tests/v9fs/kernels.sh
. tests/v9fs/kernels.sh
# shellcheck source=tests/v9fs/results.sh
. tests/v9fs/results.sh

# The words of KERNEL-TREE-CACHE-ACCESS-MSIZE[-devices], where there are such.
check_config() {
    local config=$1 kernel tree cache access msize devices
    IFS=- read -r kernel tree cache access msize devices <<<"$config"
    [ -n "${kernel_suite[$kernel]-}" ] || die "no kernel $kernel in $config: there are $kernel_names"
    case $tree in tmpfs | ext4) ;; *) die "no tree $tree in $config: there are tmpfs and ext4" ;; esac
    case $kernel-$cache in
        6.1-readahead) die "no cache readahead in $config: Linux 6.1 refuses the mount" ;;
        *-none | *-mmap | *-loose | *-readahead) ;;
        *) die "no cache $cache in $config: there are none, mmap, loose and, not on 6.1, readahead" ;;
    esac
    case $access in client | user | acl) ;; *) die "no access $access in $config: there are client, user and acl" ;; esac
    [[ $msize =~ ^[1-9][0-9]*$ ]] || die "no msize $msize in $config: it is a number of bytes"
    case $devices in "" | devices) ;; *) die "no $devices in $config: after the msize there is nothing or devices" ;; esac
}

# boot SERVER CONFIG SUITE...: boots a guest that runs suites and ends; returns when it has.
boot() {
    local server=$1 out=target/v9fs/$1-$2 kernel tree cache access msize devices disk=()
    IFS=- read -r kernel tree cache access msize devices <<<"$2"
    shift 2
    rm -rf "$out"
    mkdir -p "$out/traces"
    if [ "$tree" = ext4 ]; then
        truncate -s 2G "$out/disk"
        disk=("ubd0=$out/disk")
    fi
    case " $* " in
        *" faults "* | *" power "*)
            truncate -s 64M "$out/disk1" "$out/disk2"
            disk+=("ubd1=$out/disk1" "ubd2=$out/disk2")
            ;;
    esac
    # Memory of the guest is a file, deleted at once: in memory where there is enough of it.
    local memory=/dev/shm
    [ -w $memory ] && [ "$(df --output=avail $memory | tail -n 1)" -gt 1500000 ] || memory=$TOP/target/v9fs
    # seccomp=auto: 7.2 runs its processes by seccomp instead of ptrace, in half of the time. What a kernel does not know is its init's environment.
    TMPDIR=$memory timeout -k 10 "$((limit * $# + 60))" "${kernel_program[$kernel]}" mem=1200M seccomp=auto root=/dev/root rootfstype=hostfs rootflags=/ ro quiet \
        "${disk[@]}" con=null con0=null,fd:1 init="$TOP/tests/v9fs/guest.sh" TOP="$TOP" OUT="$TOP/$out" \
        SERVER="$server" GOFER_BIN="${GOFER_BIN-}" GOFER_LOG="${GOFER_LOG-}" GOFER_TRACES="${GOFER_TRACES:+/run/out/traces}" LIMIT="$limit" FSX_STEPS="$steps" \
        MODULES="${kernel_modules[$kernel]}" BACKING="$tree" CACHE="$cache" ACCESS="$access" MSIZE="$msize" DEVICES="$devices" \
        PROGRAMS="$TOP/target/programs" SUITES="$(IFS=,; say "$*")" </dev/null >"$out/console.log" 2>&1
}

# guest SERVER CONFIG SUITE...
guest() {
    local out=target/v9fs/$1-$2 begun=$SECONDS status=0
    boot "$@" || status=$?
    rm -f "$out/disk" "$out/disk1" "$out/disk2"
    [ -z "${GOFER_TRACES-}" ] || mv "$out"/traces/* "$GOFER_TRACES" # the guest writes nowhere else
    say "$((SECONDS - begun))" >"$out/total"
    # Killed, and not for its time: somebody else did it, or this machine's memory was short. That says nothing of the suite.
    [ $status -ne 137 ] || [ $((SECONDS - begun)) -ge $((limit * ($# - 2) + 60)) ] || : >"$out/killed"
    if [ ! -e "$out/done" ]; then
        printf 'FAIL guest::ends status %s after %s s\n' "$status" "$((SECONDS - begun))" >>"$out/results"
    fi
}

only_child() { ps -o pid= --ppid "$1" | head -n 1 | tr -d ' ' | grep .; }

# A guest whose power is cut: its processes are killed while its suite writes. What the guest was told to be on its disk is on the disk.
cut_power() {
    local out=target/v9fs/$1-$2 begun=$SECONDS process kernel
    rm -f "$out/told"
    boot "$1" "$2" power 2>/dev/null &
    process=$!
    while kill -0 "$process" 2>/dev/null && [ "$(wc -l 2>/dev/null <"$out/told" || echo 0)" -lt 60 ]; do sleep 0.1; done
    sleep "0.$((RANDOM % 1000))"
    # The kernel's first process leads a group of all: those that run its programs, and the one that writes to its disks.
    kernel=$(only_child "$(only_child "$process")") && kill -KILL -- "-$kernel" || true
    wait "$process" || true
    say "power $((SECONDS - begun))" >"$out/seconds"
    if after_power_cut "$out" "$kernel" >"$out/power.log" 2>&1; then
        say "ok power::cut"
        touch "$out/done"
    else
        say "FAIL power::cut $(tail -n 1 "$out/power.log")"
    fi >>"$out/results"
    tail -n 1 "$out/power.log"
    rm -f "$out/disk" "$out/disk1" "$out/disk2"
    [ -z "${GOFER_TRACES-}" ] || mv "$out"/traces/* "$GOFER_TRACES" # the guest writes nowhere else
    say "$((SECONDS - begun))" >"$out/total"
}

# The journal is played back as a mount would do it; then all is compared that the guest was told of, the last word on each path.
after_power_cut() (
    cd "$1" || exit 1
    [ -n "$2" ] || { say "the guest has ended by itself"; exit 1; }
    [ "$(wc -l <told)" -ge 60 ] || { say "the guest was told of $(wc -l <told) things only"; exit 1; }
    for disk in disk1 disk2; do
        e2fsck -fy $disk || [ $? -le 1 ] || { say "$disk is damaged"; exit 1; }
        mkdir "$disk.files"
        debugfs -R "rdump / $disk.files" $disk
    done
    # Else the power was not cut: what nobody has asked to keep is there too.
    [ ! -s disk2.files/file ] || { say "what was never synced is there"; exit 1; }
    # The last line may be half a line. A whole one counts: it may be a "may", and what it tells may be on the disk.
    if [ -z "$(tail -c 1 told)" ]; then cp told whole; else head -n -1 told >whole; fi
    # The last word on each path: KIND PATH WHAT, then what it may have become since, and where it may have gone.
    awk '
        $1 == "may" { may[$2] = $3; next }
        $1 == "goes" { goes[$2] = $3; next }
        { last[$2] = $1 " " $2 " " ($3 == "" ? "-" : $3); delete may[$2]; delete goes[$2] }
        END { for (path in last) print last[path], path in may ? may[path] : "-", path in goes ? goes[path] : "-" }
    ' whole >expected
    count=0
    while read -r kind path what may goes; do
        at=disk1.files/$path
        case $kind in
            file)
                [ -e "$at" ] || at=disk1.files/$goes
                sum=$(sha256sum "$at" | cut -d' ' -f1)
                [ "$sum" = "$what" ] || [ "$sum" = "$may" ] || { say "$path is not what was synced"; exit 1; }
                ;;
            dir) [ -d "$at" ] || { say "no directory $path"; exit 1; } ;;
            link) [ "$(readlink "$at")" = "$what" ] || { say "no symlink $path"; exit 1; } ;;
            gone) [ ! -e "$at" ] || { say "$path is there again"; exit 1; } ;;
            *) say "what is $kind?"; exit 1 ;;
        esac
        count=$((count + 1))
    done <expected
    rm -rf disk1.files disk2.files
    say "power: $(wc -l <whole) acknowledgements, $count paths as they were last acknowledged"
)

# The log of one case, which begins with "== CASE"; that of pjdfstest has what the reason has.
show_case() {
    awk -v name="== ${2#*::}" '/^== / { on = $0 == name } on' "$1/${2%%::*}.log" 2>/dev/null | tail -n 25 | sed 's/^/      /' || true
}

# judge SERVER CONFIG SUITE...: says what came out; false if anything of ours is not as expected.txt has it.
judge() {
    local server=$1 config=$2 out=target/v9fs/$1-$2 good=true case configs reason status
    local -A expected=() seen=()
    shift 2
    while read -r case configs reason; do
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $case && $case != \#* && $config == $configs ]] && expected[$case]=$reason
    done <tests/v9fs/expected.txt
    while read -r status case reason; do
        seen[$case]=$status
        [ "$server" = gofer ] || { [ "$status" != FAIL ] || say "  $server $config: $case: $reason"; continue; }
        case $status-${expected[$case]+listed} in
            FAIL-) good=false; say "  $config: $case FAILED: $reason"; show_case "$out" "$case" ;;
            ok-listed) good=false; say "  $config: $case passes, expected.txt says that it cannot" ;;
        esac
    done <"$out/results"
    [ "$server" = gofer ] || expected=()
    for case in "${!expected[@]}"; do
        [[ " $* " != *" ${case%%::*} "* ]] || [ -n "${seen[$case]-}" ] || { good=false; say "  $config: $case in expected.txt did not run"; }
    done
    [ "$server" = gofer ] || config="$server $config"
    say "$config: $(grep -c '^ok ' "$out/results") ok, $(grep -c '^FAIL ' "$out/results") failed, $(grep -c '^skipped ' "$out/results") skipped;" \
        "$(tr '\n' ' ' <"$out/seconds" 2>/dev/null) total $(cat "$out/total") s"
    sed 's/^/  /' "$out"/*.measured 2>/dev/null || true
    if ! $good; then
        say "  logs: $out"
        [ -e "$out/done" ] || tail -n 20 "$out/console.log" "$out/guest.log" "$out"/*.log
    fi
    $good
}

declare -A running=() # by the process of a guest: its line of the plan

# Runs a plan, each of its words "SERVER CONFIG SUITE...", two guests at a time. $1 is called with the words of each that has ended.
run_guests() {
    local line ended=$1
    shift
    for line in "$@"; do
        while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
        # shellcheck disable=SC2086 # words
        case $line in
            *" power") { trap : INT TERM HUP; cut_power $line; $ended $line; } & ;;
            *) { trap : INT TERM HUP; guest $line; $ended $line; } & ;;
        esac
        running[$!]=$line
    done
    wait
}

group_of() { ps -o pgid= -p "$1" | tr -d ' '; }

# Stopped by a signal: guests must not go on alone. The last process below each of our jobs, which outlive the signal for that, is of the
# group of its kernel, which is not ours. A job whose guest is gone keeps what that has done. One whose guest was to lose its power is ended
# first: nobody would know who did it.
end_guests() {
    local job last child group
    for job in $(jobs -rp); do
        last=$job
        while child=$(only_child "$last"); do last=$child; done
        group=$(group_of "$last")
        [[ ${running[$job]-} != *" power" ]] || kill -KILL "$job" || true
        [ "$group" = "$(group_of $$)" ] || kill -KILL -- "-$group" || true
    done
    wait
}

# What runs on every kernel in CI.
everywhere="smoke data sqlite"

# The programs are on the kernel whose guest is the fastest.
ci_plan() {
    say gofer 6.1-tmpfs-none-client-131072 $everywhere pjdfstest fsx fio git tar faults
    say gofer 6.1-ext4-mmap-acl-131072-devices $everywhere pjdfstest hostile
    say gofer 6.1-tmpfs-none-client-8192 power
    say gofer 7.2-tmpfs-none-client-131072 $everywhere rsync git dpkg
    local config
    for config in 7.2-tmpfs-mmap 7.2-tmpfs-loose 6.12-tmpfs-none 6.12-tmpfs-mmap; do say gofer $config-client-131072 $everywhere; done
}

# Packages without scripts, which dpkg can unpack into an empty root. Fetched once for all clones.
get_debs() {
    local names="diffutils findutils manpages" lock new
    local debs=$cache/debs-${names// /-}
    mkdir -p "$cache"
    exec {lock}>"$cache/lock"
    flock "$lock"
    if [ ! -d "$debs" ]; then
        rm -rf "$cache"/new.* # of a run that was killed
        new=$(mktemp -d "$cache/new.XXXXXX")
        # shellcheck disable=SC2086 # words
        (cd "$new" && apt-get -o APT::Sandbox::User=root download $names) >"$cache/debs.log" 2>&1 ||
            die "no packages for the suite dpkg ($names): apt-get download fails, see $cache/debs.log"
        mv -T "$new" "$debs"
    fi
    exec {lock}>&-
    rm -f target/programs/*.deb
    cp "$debs"/*.deb target/programs/
}

# Go's own tests as programs: cmd/go's lock files, and os.
build_go_tests() {
    local package
    go env GOROOT >target/programs/goroot
    printf '%s\n' os cmd/go/internal/lockedfile cmd/go/internal/lockedfile/internal/filelock >target/programs/gopackages
    while read -r package; do
        go test -c -o "target/programs/${package##*/}.test" "$package" || die "cannot build the tests of Go's $package"
    done <target/programs/gopackages
}

# Suites that start a gofer of their own: nothing else can be tried by them.
own_server=" faults power hostile "

all_plan() {
    local kernel tree cache access msize suite others=
    for suite in $suites; do [[ $own_server == *" $suite "* ]] || others+=" $suite"; done
    for cache in none mmap loose readahead; do
        for kernel in $kernel_names; do
            [ $kernel-$cache != 6.1-readahead ] || continue
            say gofer $kernel-tmpfs-$cache-client-131072 ${suites/power/}
            say diod $kernel-tmpfs-$cache-client-131072 $others
        done
    done
    for kernel in $kernel_names; do say gofer $kernel-tmpfs-none-client-8192 power; done
    for cache in none mmap loose; do say gofer 6.1-ext4-$cache-client-131072 ${suites/power/}; done
    for tree in tmpfs ext4; do
        for access in client user acl; do
            for msize in 8192 131072 1048576; do
                for cache in none mmap loose; do
                    [ $access-$msize = client-131072 ] || say gofer 6.1-$tree-$cache-$access-$msize-devices smoke pjdfstest fsx sqlite tar
                done
            done
        done
    done
}

# Words of CONFIG with their kernel, for the suites named.
named_plan() {
    local config kernel suite
    for suite in "$@"; do
        [[ " $suites " == *" $suite "* ]] || die "no suite $suite; there are $suites, ci and all"
    done
    [[ " $* " != *" power "* ]] || [ $# -eq 1 ] || die "power is a guest by itself"
    for config in ${CONFIG-tmpfs-none-client-131072}; do
        case $config in
            tmpfs-* | ext4-*) for kernel in ${wanted:-6.1}; do say "${SERVER-gofer} $kernel-$config $*"; done ;;
            *)
                [[ -z $wanted || " $wanted " == *" ${config%%-*} "* ]] || die "CONFIG has $config, --kernel $wanted"
                say "${SERVER-gofer} $config $*"
                ;;
        esac
    done
}

wanted= # kernels; none: as the plan has it
words=()
while [ $# -gt 0 ]; do
    case $1 in
        --kernel) [ $# -gt 1 ] || die "--kernel which? $kernel_names or all"; wanted=$2; shift ;;
        --kernel=*) wanted=${1#*=} ;;
        -*) die "no option $1; there is --kernel" ;;
        *) words+=("$1") ;;
    esac
    shift
done
[ "$wanted" != all ] || wanted=$kernel_names
[[ -z $wanted || " $kernel_names " == *" $wanted "* ]] || die "no kernel $wanted: there are $kernel_names and all"
[ ${#words[@]} -gt 0 ] || die "which suites? $suites, ci or all"
[[ $TOP != *' '* ]] || die "the guest's command line cannot take the space in $TOP"
[ "$(id -u)" -eq 0 ] || die "the guest sees this root: run it as root"

case ${SERVER-gofer} in gofer | diod | none) ;; *) die "no server $SERVER: there are gofer, diod and none" ;; esac

case ${words[*]} in
    ci) steps=1000; lines=$(ci_plan) ;;
    all) limit=${LIMIT-1800}; lines=$(all_plan | grep "^${SERVER-}") || die "all has nothing for the server $SERVER" ;;
    *) lines=$(named_plan "${words[@]}") ;;
esac
plan=()
trap let_kernels_go EXIT
trap 'end_guests 2>/dev/null; exit 130' INT TERM HUP
while read -r server config names; do
    [[ -z $wanted || " $wanted " == *" ${config%%-*} "* ]] || continue
    check_config "$config"
    get_kernel "${config%%-*}"
    plan+=("$server $config $names")
done <<<"$lines"
mkdir -p target/programs
[[ " ${plan[*]} " != *" dpkg "* ]] || get_debs
[[ " ${plan[*]} " != *" golang "* ]] || build_go_tests
[ ${#plan[@]} -gt 0 ] || die "${words[*]} has nothing for kernel $wanted"
good=true
if [ "${words[*]}" = all ]; then
    run_kept "${plan[@]}" || good=false
else
    run_guests true "${plan[@]}"
    # shellcheck disable=SC2086 # words
    for line in "${plan[@]}"; do judge $line || good=false; done
fi
$good
