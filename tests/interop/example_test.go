package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TASKMUX_INTEROP_EXAMPLE names the C++ example redis_worker.
func TestTheGoProducerOfTheExamples(t *testing.T) {
	program := os.Getenv("TASKMUX_INTEROP_EXAMPLE")
	if program == "" {
		t.Skip("TASKMUX_INTEROP_EXAMPLE does not name the example redis_worker")
	}
	fresh(t)
	producer := filepath.Join(t.TempDir(), "go_producer")
	build := exec.Command("go", "build", "-o", producer, ".")
	build.Dir = "../../examples/go_producer"
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	var said strings.Builder
	worker := exec.Command(program, cppURL())
	worker.Stdout = &said
	check(t, worker.Start())
	output, err := exec.Command(producer, cppURL(), "100").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "100 done; the last: sent to user99@example.org") {
		t.Errorf("the producer: %v: %s", err, output)
	}
	check(t, worker.Process.Signal(syscall.SIGTERM))
	check(t, worker.Wait())
	if !strings.Contains(said.String(), "100 tasks done") {
		t.Errorf("the worker: %s", said.String())
	}
}
