#!/bin/sh
# The built gofer under a tracer, which keeps out of its way: the gofer is whose child it would be. GOFER_TRACES is the
# folder where what it calls is put, a file for each start; `./build.sh traced` runs real clients on it and reads them.
exec strace -D -n -e raw=all -o "$(mktemp "${GOFER_TRACES:?}/XXXXXXXX")" "$(dirname "$0")/../target/gofer" "$@"
