//go:build table

package gvisor

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/p9"
)

const (
	most    = 4       // callers at once
	payload = 1048064 // the most that the client puts into one message of 1 MiB
)

// What the operations of one server use; a file of 10 bytes for each caller, walked, and one of 1 MiB, open.
type ready struct {
	*peer
	small []p9.File
	data  p9.File
}

type operation struct {
	name string
	do   func(r ready, caller int, buffer []byte) error
}

func operations() []operation {
	all := []operation{
		{"getattr", func(r ready, caller int, _ []byte) error {
			_, _, _, err := r.small[caller].GetAttr(p9.AttrMaskAll())
			return err
		}},
		{"walkgetattr + clunk", func(r ready, caller int, _ []byte) error {
			_, file, _, _, err := r.root.WalkGetAttr([]string{small(caller)})
			if err != nil {
				return err
			}
			return file.Close()
		}},
		{"walk + open + clunk", func(r ready, caller int, _ []byte) error {
			_, file, err := r.root.Walk([]string{small(caller)})
			if err != nil {
				return err
			}
			given, _, _, err := file.Open(p9.ReadOnly)
			if err != nil {
				return err
			}
			given.Close()
			return file.Close()
		}},
	}
	sizes := []struct {
		name  string
		bytes int
	}{{"4 KiB", 4 << 10}, {"64 KiB", 64 << 10}, {"1 MiB", payload}}
	for _, size := range sizes {
		size := size
		all = append(all, operation{"read " + size.name, func(r ready, _ int, buffer []byte) error {
			return whole(size.bytes)(r.data.ReadAt(buffer[:size.bytes], 0))
		}})
	}
	for _, size := range sizes {
		size := size
		all = append(all, operation{"write " + size.name, func(r ready, _ int, buffer []byte) error {
			return whole(size.bytes)(r.data.WriteAt(buffer[:size.bytes], 0))
		}})
	}
	return all
}

func small(caller int) string { return fmt.Sprintf("f%d", caller) }

func whole(size int) func(int, error) error {
	return func(n int, err error) error {
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes of %d", n, size)
		}
		return err
	}
}

func prepare(t *testing.T, name string, channels bool) ready {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "bench")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := ready{peer: startAs(t, name, channels, dir, false)}
	for caller := 0; caller < most; caller++ {
		must(t, os.WriteFile(r.host(small(caller)), []byte("0123456789"), 0o644))
		r.small = append(r.small, r.walk(t, small(caller)))
	}
	must(t, os.WriteFile(r.host("data"), bytes.Repeat([]byte{'x'}, 1<<20), 0o644))
	r.data = r.walk(t, "data")
	given, _, _, err := r.data.Open(p9.ReadWrite)
	must(t, err)
	given.Close()
	return r
}

// Puts all threads of a process on some cores; threads that come later are where the one is that makes them.
func pin(t *testing.T, pid int, cores ...int) {
	t.Helper()
	var set unix.CPUSet
	for _, core := range cores {
		set.Set(core)
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		must(t, err)
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// Time that all threads of a process have been running.
func running(t *testing.T, pid int) (ns int64) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, thread := range threads {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		first, _, _ := strings.Cut(string(text), " ")
		time, _ := strconv.ParseInt(first, 10, 64)
		ns += time
	}
	return ns
}

// One operation, in µs: as the caller sees it, and on the server's cores.
func round(t *testing.T, r ready, o operation, callers int, long time.Duration) (seen, core float64) {
	t.Helper()
	times, failed := make([][]float64, callers), make([]error, callers)
	pid := r.command.Process.Pid
	before := running(t, pid)
	end := time.Now().Add(long)
	var all sync.WaitGroup
	for caller := 0; caller < callers; caller++ {
		all.Add(1)
		go func(caller int) {
			defer all.Done()
			buffer := make([]byte, payload)
			for begun := time.Now(); begun.Before(end) || len(times[caller]) < 3; {
				if failed[caller] = o.do(r, caller, buffer); failed[caller] != nil {
					return
				}
				now := time.Now()
				times[caller] = append(times[caller], float64(now.Sub(begun).Nanoseconds())/1e3)
				begun = now
			}
		}(caller)
	}
	all.Wait()
	core = float64(running(t, pid)-before) / 1e3
	var together []float64
	for caller, err := range failed {
		if err != nil {
			t.Fatalf("%s: %v; %s", o.name, err, r.said())
		}
		together = append(together, times[caller]...)
	}
	return middle(together), core / float64(len(together))
}

func middle(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

// The servers take turns, round by round. BENCH_INTO is the file that the table goes to; BENCH_ROUNDS, BENCH_MS,
// BENCH_ONLY and BENCH_DIR as in ../bench.
func TestTable(t *testing.T) {
	rounds, err := strconv.Atoi(variable("BENCH_ROUNDS", "9"))
	must(t, err)
	ms, err := strconv.Atoi(variable("BENCH_MS", "60"))
	must(t, err)
	peers := []ready{prepare(t, "ours", true), prepare(t, "original", true), prepare(t, "ours", false), prepare(t, "original", false)}
	var set unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &set))
	var cores []int
	for core := 0; len(cores) < set.Count(); core++ {
		if set.IsSet(core) {
			cores = append(cores, core)
		}
	}
	places := []struct {
		name           string
		caller, server []int
	}{{"two", cores[:1], cores[len(cores)-1:]}, {"one", cores[:1], cores[:1]}, {"any", cores, cores}}

	var table strings.Builder
	table.WriteString("**gVisor's client, µs: middle operation / server's cores**\n\n" +
		"| work | callers | cores | gofer | gVisor's | gofer to gVisor's | gofer, socket | gVisor's, socket | gofer to gVisor's, socket |\n" +
		"|---|---|---|---|---|---|---|---|---|\n")
	for _, callers := range []int{1, most} {
		for _, o := range operations() {
			if !strings.Contains(o.name, os.Getenv("BENCH_ONLY")) {
				continue
			}
			for _, place := range places {
				pin(t, os.Getpid(), place.caller...)
				seen, core := make([][]float64, len(peers)), make([][]float64, len(peers))
				for i := 0; i < rounds; i++ {
					for at, r := range peers {
						pin(t, r.command.Process.Pid, place.server...)
						one, other := round(t, r, o, callers, time.Duration(ms)*time.Millisecond)
						seen[at], core[at] = append(seen[at], one), append(core[at], other)
					}
				}
				fmt.Fprintf(&table, "| %s | %d | %s |", o.name, callers, place.name)
				for at := 0; at < len(peers); at += 2 {
					for _, i := range []int{at, at + 1} {
						fmt.Fprintf(&table, " %.1f / %.1f |", middle(seen[i]), middle(core[i]))
					}
					fmt.Fprintf(&table, " %.2f / %.2f |", middle(seen[at])/middle(seen[at+1]), middle(core[at])/middle(core[at+1]))
				}
				table.WriteString("\n")
			}
		}
	}
	pin(t, os.Getpid(), cores...)
	must(t, os.WriteFile(variable("BENCH_INTO", "../../../target/interop/gvisor.md"), []byte(table.String()), 0o644))
}
