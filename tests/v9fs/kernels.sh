#!/usr/bin/env bash
# Sourced by run.sh, which has `say` and `die`: gets kernels that run as a process (Debian's user-mode-linux), by name.
#
# The machine's own is taken where it is the one. Others come from the mirror that the machine's apt knows, by an apt configuration
# of their own: nothing is installed. They and the C library that they need are kept in a folder that outlives the clone, by package and
# version: Debian drops old versions. Several runs may share it. Each run holds a lock on what it uses.

# A kernel's name is its version's beginning. Which suite of Debian has it:
declare -A kernel_suite=([6.1]=bookworm [6.12]=trixie [7.2]=sid)
kernel_names="6.1 6.12 7.2"

cache=$(realpath -m "${GOFER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gofer}")
kernels=$cache/kernels
declare -A kernel_program=() kernel_modules=() kernel_version=() # what get_kernel has found, by name
kernel_links=()                                                  # in /run, each with the descriptor of its lock: "LINK FD"

# get_kernel NAME: sets kernel_program, kernel_modules and kernel_version of it.
get_kernel() {
    local name=$1 lock
    [ -z "${kernel_program[$name]-}" ] || return 0
    [ -n "${kernel_suite[$name]-}" ] || die "no kernel $name: there are $kernel_names"
    if [[ $(linux.uml --version 2>/dev/null) =~ ^"$name"\. ]]; then
        kernel_program[$name]=$(command -v linux.uml)
        kernel_modules[$name]=/usr/lib/uml/modules
    else
        mkdir -p "$kernels"
        [ -O "$kernels" ] || die "$kernels belongs to another user, and what is in it would run as root: set GOFER_CACHE"
        exec {lock}>"$kernels/lock"
        flock "$lock"
        rm -rf "$kernels"/new.* # of a run that was killed
        choose_kernel "$name"
        exec {lock}>&-
    fi
    kernel_version[$name]=$("${kernel_program[$name]}" --version) || die "${kernel_program[$name]} does not start"
    [[ ${kernel_version[$name]} == "$name".* ]] || die "${kernel_program[$name]} is Linux ${kernel_version[$name]}, not $name"
}

# Under the lock of the folder: takes the version that the mirror has, or else the newest of the folder, and says why.
choose_kernel() {
    local name=$1 suite=${kernel_suite[$1]} apt=$kernels/apt-${kernel_suite[$1]} version= libc= folder= old why=
    if ask_mirror; then
        if [[ $version != "$name"um* ]]; then
            why="the mirror's user-mode-linux in $suite is $version, not $name"
            folder=
        else
            [ -d "$folder" ] || download || folder=
        fi
        rm -rf "$apt/lists" "$apt/cache"
    else
        folder=
    fi
    if [ -z "$folder" ]; then
        folder=$(printf '%s\n' "$kernels/user-mode-linux_$name"um* | sort -V | tail -n 1)
        [ -d "$folder" ] || die "no kernel $name (user-mode-linux of $suite): $why; run once where a Debian mirror has it, or set GOFER_CACHE to a folder of such a machine"
        say "v9fs: $why; taken from the cache: ${folder##*/}"
    fi
    use_folder
    # Older versions go, but for what another run uses.
    for old in "$kernels/user-mode-linux_$name"um*; do
        [ "$old" = "$folder" ] || flock -n -x "$old" mv "$old" "$kernels/new.${old##*/}" || true
    done
    rm -rf "$kernels"/new.*
}

# Sets version, libc and the folder for them.
read_answer() {
    read -r version libc <"$1"
    folder=$kernels/user-mode-linux_${version}_libc6_$libc
}

private_apt() { local tool=$1; shift; "apt-$tool" -c "$apt/apt.conf" "$@"; }

# Asks which versions the suite has, unless that was done in the last day. False, and `why` says why, if no mirror tells.
ask_mirror() {
    local entry
    if [ -n "$(find "$apt/versions" -mmin -1440 2>/dev/null)" ]; then
        read_answer "$apt/versions"
        [ ! -d "$folder" ] || return 0
    fi
    rm -rf "$apt"
    mkdir -p "$apt/entries" "$apt/lists/partial" "$apt/cache/archives/partial"
    # Not the machine's preferences, packages and hooks; its proxies and the like are kept.
    cat >"$apt/apt.conf" <<CONF
#clear APT::Update;
#clear DPkg;
Dir::Etc::sourcelist "$apt/sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
APT::Sandbox::User "root"; # another could not write into this folder
CONF
    why="no apt source of this machine is a mirror of Debian's main packages for its release"
    mirror_entries
    for entry in "$apt/entries"/*; do
        [ -e "$entry" ] || return 1
        sed -i "s|^Dir::Etc::sourcelist .*|Dir::Etc::sourcelist \"$entry\";|" "$apt/apt.conf"
        if ! private_apt get update --error-on=any >"$apt/log" 2>&1; then
            why="the mirror does not answer for $suite ($(grep -m 1 '^[EW]:' "$apt/log" | cut -c 1-160))"
            continue
        fi
        private_apt cache policy user-mode-linux libc6 2>>"$apt/log" | sed -n 's/^  Candidate: //p' | xargs >"$apt/versions"
        if grep -q '^[0-9][^ ]* [0-9][^ ]*$' "$apt/versions"; then
            read_answer "$apt/versions"
            return 0
        fi
        why="the mirror has no user-mode-linux in $suite"
    done
    rm -f "$apt/versions"
    return 1
}

# The machine's apt sources for the release that it runs, each as a file of its own for the suite: same mirror, options and keys.
mirror_entries() {
    local list= parts= release
    eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
    release=$(. /etc/os-release && printf %s "${VERSION_CODENAME-}")
    cat "$list" "$parts"/*.list 2>/dev/null | awk -v release="$release" -v suite="$suite" -v at="$apt/entries/" '
        $1 == "deb" {
            options = match($0, /^ *deb +\[[^]]*\] /) ? substr($0, index($0, "["), RLENGTH - index($0, "[") + 1) : ""
            rest = $0; sub(/^ *deb +(\[[^]]*\] *)?/, "", rest)
            if (split(rest, word) > 2 && word[2] == release && rest ~ / main( |$)/) {
                file = at (++count) ".list"; print "deb " options word[1], suite, "main" >file; close(file)
            }
        }'
    for list in "$parts"/*.sources; do
        [ ! -e "$list" ] || { cat "$list"; printf '\n'; }
    done | awk -v RS= -v release="$release" -v suite="$suite" -v at="$apt/entries/" '
        function field(name) {
            return match("\n" $0, "\n" name ":[^\n]*") ? substr("\n" $0, RSTART + length(name) + 2, RLENGTH - length(name) - 2) " " : ""
        }
        tolower(field("Enabled")) !~ /no|false/ && field("Types") ~ / deb / && field("Suites") ~ (" " release " ") && field("Components") ~ / main / {
            gsub(/(^|\n)#[^\n]*/, ""); sub(/^\n/, "")
            sub(/Types:[^\n]*/, "Types: deb"); sub(/Suites:[^\n]*/, "Suites: " suite); sub(/Components:[^\n]*/, "Components: main")
            file = at (++count) ".sources"; print >file; close(file)
        }'
}

# Fetches the two packages and puts the folder together; it has its name when it is whole.
download() {
    local new package
    new=$(mktemp -d "$kernels/new.XXXXXX")
    say "v9fs: getting user-mode-linux $version of $suite and its C library"
    if ! (cd "$new" && private_apt get download "user-mode-linux=$version" "libc6=$libc") >"$apt/log" 2>&1; then
        why="user-mode-linux $version of $suite cannot be downloaded, see $apt/log"
        return 1
    fi
    for package in user-mode-linux libc6; do dpkg-deb -x "$new/$package"_*.deb "$new/$package" || die "cannot unpack $package in $kernels"; done
    mkdir "$new/libc"
    cp "$new/user-mode-linux/usr/bin/linux.uml" "$new/linux.uml"
    mv "$new/user-mode-linux/usr/lib/uml/modules" "$new/modules"
    find "$new/libc6" -name libc.so.6 -type f -exec cp {} "$new/libc/" \;
    find "$new/libc6" -name ld-linux-x86-64.so.2 -type f -exec cp {} "$new/libc/ld.so" \;
    [ -s "$new/libc/libc.so.6" ] && [ -s "$new/libc/ld.so" ] || die "libc6 $libc has not the two files of a C library"
    rm -rf "$new/user-mode-linux" "$new/libc6" "$new"/*.deb
    chmod 755 "$new"
    mv -T "$new" "$folder"
}

# Debian's linux.uml wants the C library of its own suite. Its interpreter and library path are rewritten in place, so what is written is not
# longer: /run/ and six letters, a symlink to the library's folder. /run is root's alone, unlike /tmp.
use_folder() {
    local target=$folder/libc link lock program new
    exec {lock}<"$folder"
    flock -s "$lock"
    link=/run/$(printf %s "$target" | sha256sum | cut -c 1-6)
    [ "$(stat -c '%u %A' /run)" = "0 drwxr-xr-x" ] || die "/run is not root's alone: $(stat -c '%U %A' /run)"
    if [ "$(readlink "$link")" != "$target" ]; then
        [ ! -e "$link" ] || [ -L "$link" ] || die "$link is there and not a symlink to $target"
        new=$(mktemp -d /run/gofer.XXXXXX)
        ln -s "$target" "$new/link"
        mv -T "$new/link" "$link"
        rmdir "$new"
    fi
    [ "$link/libc.so.6" -ef "$target/libc.so.6" ] || die "$link does not lead to $target"
    kernel_links+=("$link $lock")
    program=$folder/linux-${link##*/}
    if [ ! -x "$program" ]; then
        FOLDER=$link perl -0777 -pe '
            for my $pair (["/lib64/ld-linux-x86-64.so.2\0", "$ENV{FOLDER}/ld.so\0"], ["\0/lib64:/lib\0", "\0$ENV{FOLDER}\0"]) {
                my ($old, $new) = @$pair;
                length $new <= length $old or die "$new is too long\n";
                $new .= "\0" x (length($old) - length $new);
                (s/\Q$old\E/$new/g) == 1 or die "not one $old\n";
            }' "$folder/linux.uml" >"$program.new" || die "$folder/linux.uml is not built as Debian's were"
        chmod 755 "$program.new"
        mv "$program.new" "$program"
    fi
    kernel_program[$name]=$program
    kernel_modules[$name]=$folder/modules
}

# At the end: the symlinks that no other run uses go.
let_kernels_go() {
    local link
    for link in "${kernel_links[@]}"; do
        ! flock -n -x "${link#* }" || rm -f "${link% *}"
    done
}
