module gofer/interop/gvisor

go 1.18

require (
	golang.org/x/sys v0.11.0
	gvisor.dev/gvisor v0.0.0
)

require golang.org/x/time v0.0.0-20191024005414-555d28b269f0 // indirect

replace gvisor.dev/gvisor => ../../../target/gvisor/usr/share/gocode/src/gvisor.dev/gvisor
