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

# mount_with MOUNTPOINT OPTIONS FLAGS...: mounts the tree there by a gofer of its own, which logs to $scratch/log of the mount point's name.
mount_with() {
    local at=$1 options=cache=$CACHE,msize=$MSIZE$2
    shift 2
    mkdir "$at"
    "$TOP/target/release/examples/mount9p" "$at" "$options" "$GOFER_BIN" --log "$scratch/${at##*/}" gofer --bundle "$WORK/bundle" --io-fds {} "$@" 2>&1
}

# refused MOUNTPOINT OPTIONS LINE: mount(2) fails at once, and the log says why.
refused() {
    local said
    if said=$(mount_with "$1" "$2"); then
        echo "it was mounted: $said"
        umount "$1"
        return 1
    fi
    echo "$said"
    grep -qF "$3" "$scratch/${1##*/}" || { cat "$scratch/${1##*/}"; echo "no line in the log: $3"; return 1; }
}

other_version() { refused "$WORK/data-version" ,version=9p2000.u 'Tversion refused (only 9P2000.L is served): "9P2000.u"'; }
other_name() { refused "$WORK/data-name" ,aname=/nowhere 'Tattach refused (no such file or directory): "/nowhere"'; }

# With 0 for each qid.version what was written is read again once its pages were dropped, on 7.2 too.
version_zero() {
    local at=$WORK/data-zero status=0
    mount_with "$at" ,access=client --qid-version zero
    python3 - "$at/data/zero" "$there/zero" <<'PYTHON' || status=$?
import os, sys
at, there = sys.argv[1:]
data = os.urandom(30000)
fd = os.open(at, os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, data)
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.pread(fd, 30001, 0) == data, 'mount'
os.close(fd)
with open(there, 'rb') as f:
    assert f.read() == data, 'host'
PYTHON
    umount "$at"
    return $status
}

suite_data() {
    data_cases rdwr
    data_cases wronly
    [ "$SERVER" = gofer ] || return 0
    check other_version other_version
    check other_name other_name
    check version_zero version_zero
}
