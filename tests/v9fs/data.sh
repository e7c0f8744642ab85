# What guests write is what is there, in the mount and in the tree that is served: the cases are in data.py, which says why there are mounts
# of its own for two kinds of them.

fresh_mount() {
    mkdir "$1"
    MOUNT=$1 mount_served
}

data_cases() {
    local first=$WORK/data-$1 second=$WORK/data-$1-second
    fresh_mount "$first"
    fresh_mount "$second"
    python3 "$TOP/tests/v9fs/data.py" "$1" "$OUT/results" "$first/data" "$second/data" "$there"
    umount "$first" "$second"
}

# Another version of the protocol: mount(2) fails at once, and the log says why.
other_version() {
    local at=$WORK/data-version log=$scratch/data-version said
    mkdir "$at"
    if said=$("$TOP/target/release/examples/mount9p" "$at" "cache=$CACHE,msize=$MSIZE,version=9p2000.u" \
        "$GOFER_BIN" --log "$log" gofer --bundle "$WORK/bundle" --io-fds {} 2>&1); then
        echo "it was mounted: $said"
        umount "$at"
        return 1
    fi
    echo "$said"
    grep -q 'Tversion refused (only 9P2000.L is served): "9P2000.u"' "$log"
}

suite_data() {
    data_cases rdwr
    data_cases wronly
    [ "$SERVER" != gofer ] || check other_version other_version
}
