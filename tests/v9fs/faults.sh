# Faults of the disk under a served tree: quotas, errors, and the end of the power. Each case has a file system of its own on
# DISK1, served and mounted beside the other one.

disk1=${DISK1-/dev/ubdb} disk2=${DISK2-/dev/ubdc} flaw=/dev/mapper/flaw
user=1234
export DM_DISABLE_UDEV=1 # there is none: dmsetup makes the device's file itself

# Serves DIR of a file system on a DEVICE with mount OPTIONS: $back is the tree itself, $front what is served.
open_up() {
    back=$WORK/faults-back front=$WORK/faults-front
    mkdir -p "$back" "$front" "$WORK/faults-bundle"
    mount -t ext4 -o "$2" "$1" "$back"
    printf '{"ociVersion":"1.0.1","process":{"args":["/bin/true"]},"root":{"path":"%s"}}' "$back" >"$WORK/faults-bundle/config.json"
    server=$("$TOP/target/release/examples/mount9p" "$front" "cache=none,access=client,msize=131072" "$GOFER_BIN" \
        gofer --bundle "$WORK/faults-bundle" --io-fds {} 2>>"$scratch/server.log")
}

# Whatever happened: the server is there until the mount goes.
close_up() {
    kill -0 "$server" || { echo "the server is gone"; return 1; }
    umount "$front"
    timeout 20 tail --pid="$server" -f /dev/null
    umount "$back"
}

# The command fails, and says why in these words.
fails_with() {
    local words=$1 said
    shift
    if said=$("$@" 2>&1); then echo "did not fail: $*"; return 1; fi
    [[ $said == *"$words"* ]] || { printf '%s, not %s\n' "$said" "$words"; return 1; }
}

# The command fails, and says why in the words that it has for the tree by itself.
fails_as_tree() {
    local words
    if words=$(cd "$back" && "$@" 2>&1); then echo "did not fail on the tree: $*"; return 1; fi
    fails_with "${words##*: }" "$@"
}

as_user() { setpriv --reuid $user --regid $user --clear-groups -- "$@"; }

# ---- quota --------------------------------------------------------------------------------------

# A user has 1 MiB and 12 inodes. The server is root, but without the capability to exceed quotas.
open_quota() {
    load fs/quota/quota_v2
    mkfs.ext4 -q -F -O quota -E quotatype=usrquota "$disk1"
    open_up "$disk1" usrquota
    setquota -u $user 0 1024 0 12 "$back"
    chmod 1777 "$back"
    cd "$front"
}

# A writer is told of no byte that is not there, where the quota ends in the middle of a message.
faults_quota_told() {
    open_quota
    local how told
    for how in notrunc append; do
        told=$(as_user dd if=/dev/zero of="$how" bs=100k count=20 conv=notrunc oflag="${how/notrunc/nofollow}" 2>&1 | sed -n 's/^\([0-9]*\) bytes.*/\1/p') || true
        [ "$told" -gt 900000 ] && [ "$told" -le "$(stat -c %s "$back/$how")" ] || { echo "$how: told of $told, $(stat -c %s "$back/$how") there"; return 1; }
        as_user rm "$how"
    done
    cd /
    close_up
}

faults_quota() {
    open_quota

    # Bytes: what was written counts and is there.
    fails_with 'Disk quota exceeded' as_user dd if=/dev/zero of=big bs=100k count=20
    [ "$(stat -c %s big)" -gt 900000 ] && [ "$(stat -c %s big)" -le 1048576 ]
    is "$(cmp -n "$(stat -c %s big)" big /dev/zero 2>&1)" ""
    fails_with 'Disk quota exceeded' as_user dd if=/dev/zero of=more bs=4k count=1
    as_user rm -f more

    # Inodes: of what cannot be given to its owner nothing is left.
    local number last=
    for number in {1..20}; do
        as_user touch "file$number" 2>/dev/null || break
        last=$number
    done
    is "$last" 11
    ls -A "$back" | sort >"$scratch/before"
    fails_with 'Disk quota exceeded' as_user touch one
    fails_with 'Disk quota exceeded' as_user mkdir one
    fails_with 'Disk quota exceeded' as_user mkfifo one
    fails_with 'Disk quota exceeded' as_user ln -s target one
    is "$(ls -A "$back" | sort | diff "$scratch/before" - 2>&1)" ""

    # Giving away counts too, and leaves the owner if it is too much.
    echo mine >root
    fails_with 'Disk quota exceeded' chown $user root
    is "$(stat -c %u "$back/root")" 0
    dd if=/dev/zero of=roots bs=1M count=3 status=none

    as_user rm big
    as_user dd if=/dev/zero of=again bs=100k count=5 status=none
    is "$(stat -c '%s %u' "$back/again")" "512000 $user"
    cd /
    close_up
}

# ---- a disk that fails --------------------------------------------------------------------------

# What lies between the file system and the disk: a line for the device mapper without its start and length.
put_between() {
    local sectors
    sectors=$(blockdev --getsz "$disk1")
    if [ -e $flaw ]; then
        dmsetup suspend --noflush --nolockfs flaw
        dmsetup load flaw --table "0 $sectors $1"
        dmsetup resume flaw
    else
        dmsetup create flaw --table "0 $sectors $1"
    fi
}

forget_pages() { sync -f "$back"; echo 3 >/proc/sys/vm/drop_caches; }

# Two files that are on the disk, and nothing of them in memory.
two_files() {
    head -c 400000 /dev/urandom >"$scratch/content"
    cp "$scratch/content" one
    cp "$scratch/content" two
    sync one two .
    forget_pages
}

# The file system, whole again, has both.
expect_files_back() {
    cd /
    close_up
    put_between "linear $disk1 0"
    e2fsck -fy $flaw >"$scratch/fsck" 2>&1 || [ $? -le 2 ]
    open_up $flaw defaults
    cmp "$front/one" "$scratch/content"
    close_up
    dmsetup remove flaw
}

with_flaw() {
    load drivers/md/dm-mod
    put_between "linear $disk1 0"
    mkfs.ext4 -q -F -b 4096 $flaw # bytes of a page and of a bad block
    open_up $flaw errors=continue
    cd "$front"
}

# Everything is EIO: the reply to fsync too, though the write before it went into memory. Then ext4 is read-only.
faults_eio() {
    with_flaw
    two_files
    exec 7<>two
    put_between error
    fails_with 'Input/output error' cat one
    fails_with 'fsync failed for' dd if="$scratch/content" of=/proc/self/fd/7 bs=4k count=1 conv=notrunc,fsync status=none
    fails_with 'Input/output error' dd if="$scratch/content" of=/proc/self/fd/7 bs=4k count=1 conv=notrunc,fsync status=none
    fails_with 'error syncing' sync .
    # By now it has given its journal up: EROFS, or for some calls EIO on 6.12. What the tree by itself says is said here.
    fails_with 'Read-only file system' touch new
    fails_as_tree mkdir dir
    fails_as_tree mv one other
    stat one >/dev/null
    exec 7>&-
    expect_files_back
}

# One block that cannot be read: what lies before and behind it is read, and it heals when it is written.
faults_bad_block() {
    load drivers/md/dm-dust
    with_flaw
    two_files
    local block
    block=$(debugfs -R 'bmap one 20' $flaw 2>/dev/null)
    put_between "dust $disk1 0 4096"
    dmsetup message flaw 0 addbadblock "$block"
    dmsetup message flaw 0 enable
    fails_with 'Input/output error' dd if=one of="$scratch/read" bs=4k
    is "$(stat -c %s "$scratch/read")" $((20 * 4096))
    cmp -n $((20 * 4096)) "$scratch/read" "$scratch/content"
    dd if=one of="$scratch/rest" bs=4k skip=21 status=none
    cmp "$scratch/rest" <(tail -c +$((21 * 4096 + 1)) "$scratch/content")
    cmp two "$scratch/content"
    dd if="$scratch/content" of=one bs=4k skip=20 seek=20 count=1 conv=notrunc,fsync status=none
    forget_pages
    cmp one "$scratch/content"
    expect_files_back
}

# Writes fail and reads do not.
faults_failing_writes() {
    load drivers/md/dm-flakey
    with_flaw
    two_files
    exec 7<>two
    put_between "flakey $disk1 0 0 3600 1 error_writes"
    cmp one "$scratch/content"
    fails_with 'fsync failed for' dd if="$scratch/content" of=/proc/self/fd/7 bs=4k skip=1 count=1 conv=notrunc,fsync status=none
    forget_pages 2>/dev/null || true
    cmp one "$scratch/content"
    exec 7>&-
    expect_files_back
}

suite_faults() {
    local name
    for name in quota quota_told eio bad_block failing_writes; do
        check $name faults_$name
        # What a case that failed has left.
        umount -l "$WORK/faults-front" "$WORK/faults-back" 2>/dev/null || true
        [ ! -e $flaw ] || dmsetup remove --force flaw
    done
}

# ---- the power ----------------------------------------------------------------------------------

# Writes until the power goes. What a reply to Tfsync has acknowledged is told to the host, a line each: "file PATH SUM", "dir PATH",
# "link PATH TARGET", "gone PATH"; and before it, what a file is about to become: "may PATH SUM", "goes PATH PATH". On DISK2 something
# lies that nobody has asked to keep.
suite_power() {
    mkfs.ext4 -q -F "$disk1"
    mkfs.ext4 -q -F "$disk2"
    mkdir -p "$WORK/never"
    mount -t ext4 -o commit=600 "$disk2" "$WORK/never"
    open_up "$disk1" commit=600
    cd "$front"
    echo "never synced" >"$WORK/never/file"
    local number
    for ((number = 1; ; number++)); do
        head -c $((number * 1777 % 200000)) /dev/urandom >"$scratch/content"
        dd if="$scratch/content" of="file$number" bs=64k conv=fsync status=none
        told file "file$number" "$(sum "$scratch/content")"
        dd if=/dev/urandom of="$scratch/piece" bs=1000 count=1 status=none
        dd if="$scratch/piece" of="$scratch/content" bs=100 seek=3 conv=notrunc status=none
        told may "file$number" "$(sum "$scratch/content")"
        dd if="$scratch/piece" of="file$number" bs=1000 oflag=seek_bytes seek=300 conv=notrunc,fsync status=none
        told file "file$number" "$(sum "$scratch/content")"
        mkdir "dir$number"
        ln -s "target$number" "dir$number/link"
        told goes "file$number" "dir$number/moved"
        mv "file$number" "dir$number/moved"
        sync "dir$number" .
        told dir "dir$number"
        told link "dir$number/link" "target$number"
        told gone "file$number"
        told file "dir$number/moved" "$(sum "$scratch/content")"
    done
}

sum() { sha256sum "$1" | cut -d' ' -f1; }
told() { printf '%s\n' "$*" >>"$OUT/told"; }
