// Package harness starts a gofer as a runtime would and talks to it.
//
//	server.go   which server is under test, and the two launch contracts
//	wire.go     a connection that keeps the descriptors that came with replies, and goes over channels where there are
//	channel.go  a channel, as gVisor's client uses it
//	raw.go      frames written and read by hand, for what the client package has no method for
//	caller.go   requests with as little as can be between caller and server, for the bench
//	known.go    the one table of known differences, and the checks that consult it
//	tree.go     a host tree as lines that can be compared
package harness
