module gofer/gospec

go 1.19

require github.com/opencontainers/runtime-spec v1.0.2
