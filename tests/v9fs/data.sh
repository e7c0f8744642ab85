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

suite_data() {
    data_cases rdwr
    data_cases wronly
}
