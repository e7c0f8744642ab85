#!/usr/bin/env bash
# Runs suites on a directory that a gofer serves to this kernel: the init of the guest that run.sh boots, and as root in any
# other VM whose kernel has 9p, 9pnet and 9pnet_fd, where it is called with words NAME=VALUE.
#
#   TOP      the project, with the gofer, the example mount9p, target/tools and target/hostile (the tests of that name) built
#   OUT      where results and logs go: a directory
#   SUITES   which suites of suites.sh, a comma between two
#   BACKING  tmpfs, or ext4: made on the block device DISK
#   CACHE, ACCESS, MSIZE   the mount options of these names; access acl is client with posixacl
#   DEVICES  anything: the gofer keeps its capabilities, that to make devices among them
#   MODULES  the folder that has the modules of kernels, each by its release (uname -r), which init loads
#   SERVER   gofer (GOFER_BIN, or else target/gofer), diod, or none: the backing tree itself
#   PROGRAMS the folder of packages and programs for some suites of programs.sh, as run.sh fills it
#   LIMIT    seconds that one suite may take
#
# OUT/results has one line a case: "ok SUITE::CASE" or "FAIL SUITE::CASE why".
set -euo pipefail

if [ "${1-}" != suite ]; then
    for word in "$@"; do [[ $word == *=* ]] && export "${word?}"; done
fi
export TOP OUT SUITES MODULES=${MODULES-/usr/lib/uml/modules} BACKING=${BACKING-tmpfs} CACHE=${CACHE-none} ACCESS=${ACCESS-client} MSIZE=${MSIZE-131072}
export GOFER_BIN=${GOFER_BIN:-$TOP/target/gofer} SERVER=${SERVER-gofer} DISK=${DISK-/dev/ubda} LIMIT=${LIMIT-600} PROGRAMS=${PROGRAMS-$TOP/target/programs}
export WORK=/run/v9fs BACK=/run/v9fs/back MOUNT=/run/v9fs/mount

die() { printf 'guest.sh: %s\n' "$*" >&2; exit 1; }

# Loads a module of the guest's kernel after those that it needs: they do not lie where modprobe looks.
load() {
    local modules needed module
    modules=$MODULES/$(uname -r)
    needed=$(sed -n "s|^kernel/$1.ko:||p" "$modules/modules.dep")
    for module in $(printf '%s\n' $needed | tac) "kernel/$1.ko"; do
        grep -q "^$(basename "$module" .ko | tr - _) " /proc/modules || insmod "$modules/$module"
    done
}

# What PID 1 has to do before anything else works: the root is the host's, read-only.
become_init() {
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run LC_ALL=C.UTF-8
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t tmpfs -o size=90% run /run # not /tmp: the project may lie there
    mkdir -p /run/out
    mount -t hostfs -o "$OUT" out /run/out
    OUT=/run/out
    exec >"$OUT/guest.log" 2>&1
    ln -s /proc/self/fd /dev/fd
    load net/9p/9pnet_fd
    load fs/9p/9p
    echo 1048576 >/proc/sys/fs/nr_open
    ulimit -n 1048576 # a gofer keeps a descriptor for each path that the kernel remembers
}

mount_backing() {
    umask 022
    mkdir -p "$WORK" "$BACK" "$MOUNT"
    case $BACKING in
        tmpfs) mount -t tmpfs -o size=75% backing "$BACK" ;;
        ext4) mkfs.ext4 -q -F "$DISK"; mount -t ext4 "$DISK" "$BACK" ;;
        *) die "BACKING is tmpfs or ext4" ;;
    esac
    chmod 755 "$BACK"
}

mount_served() {
    local options=cache=$CACHE,access=${ACCESS/acl/client,posixacl},msize=$MSIZE bundle=$WORK/bundle
    case $SERVER in
        gofer)
            mkdir -p "$bundle"
            printf '{"ociVersion":"1.0.1","process":{"args":["/bin/true"]},"root":{"path":"%s"}}' "$BACK" >"$bundle/config.json"
            server=$("$TOP/target/release/examples/mount9p" "$MOUNT" "$options" "$GOFER_BIN" \
                ${GOFER_LOG:+--debug --debug-log "$OUT/gofer.debug"} gofer --bundle "$bundle" --io-fds {} \
                ${DEVICES:+--apply-caps=false} 2>"$OUT/server.log")
            ;;
        diod)
            server=$("$TOP/target/release/examples/mount9p" "$MOUNT" "$options,uname=root,aname=$BACK" \
                diod -f -n -r {} -w {} -e "$BACK" -L stderr 2>"$OUT/server.log")
            ;;
        none) mount --bind "$BACK" "$MOUNT" ;;
        *) die "SERVER is gofer, diod or none" ;;
    esac
}

# Each suite is a process of its own, in a directory of its own; what it leaves undone is a failure too.
run_suite() {
    local suite=$1 status=0 begun=$SECONDS
    timeout -k 10 "$LIMIT" "$TOP/tests/v9fs/guest.sh" suite "$suite" >"$OUT/$suite.log" 2>&1 || status=$?
    case $status in
        0) printf 'ok %s::finished\n' "$suite" ;;
        124 | 137) printf 'FAIL %s::finished not done after %s s\n' "$suite" "$LIMIT" ;;
        *) printf 'FAIL %s::finished status %s, see %s.log\n' "$suite" "$status" "$suite" ;;
    esac >>"$OUT/results"
    printf '%s %s\n' "$suite" $((SECONDS - begun)) >>"$OUT/seconds"
}

# Whatever happened, the server is still there; and it ends with the mount.
unmount() {
    if [ "$SERVER" = none ]; then umount "$MOUNT"; else
        if kill -0 "$server"; then echo "ok server::lives"; else echo "FAIL server::lives it is gone"; fi >>"$OUT/results"
        umount "$MOUNT"
        if timeout 20 tail --pid="$server" -f /dev/null; then echo "ok server::ends"; else echo "FAIL server::ends not after umount"; fi >>"$OUT/results"
    fi
    umount "$BACK"
    rm -rf "$WORK"
}

main() {
    : >"$OUT/results"
    mount_backing
    mount_served
    local suite
    for suite in ${SUITES//,/ }; do run_suite "$suite"; done
    unmount
    echo done >"$OUT/done"
}

if [ "${1-}" = suite ]; then
    . "$TOP/tests/v9fs/suites.sh"
    run "$2"
elif [ $$ -eq 1 ]; then
    # The kernel panics when its first process ends: whatever happens, power off instead.
    trap "sync; echo o >/proc/sysrq-trigger; sleep 60" EXIT
    become_init
    main
else
    main
fi
