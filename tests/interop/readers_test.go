package interop

import (
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hibiken/asynq"
)

// stateful makes C++ put a task into each state, with the state as its id, and leaves its server running.
func stateful(t *testing.T) (*peer, *asynq.Inspector) {
	t.Helper()
	_, inspector := fresh(t)
	cpp := newPeer(t)
	for id, command := range map[string]fields{
		"pending":   {"type": "ok", "queue": "idle", "headers": map[string]string{"k": "v"}},
		"scheduled": {"type": "ok", "process_in_ms": 3600500, "unique_ms": 1500},
		"completed": {"type": "ok", "retention_ms": 3600500},
		"retry":     {"type": "fail"},
		"archived":  {"type": "skip"},
		"active":    {"type": "hang"},
	} {
		command["id"], command["payload"] = id, hex.EncodeToString([]byte(payloadOf(id)))
		cpp.do("enqueue", command)
	}
	cpp.do("pause", fields{"queue": "idle"})
	cpp.do("start", fields{"retry_delay_ms": 3600500, "concurrency": 3, "queues": map[string]int{"default": 6, "low": 1}})
	for _, id := range []string{"scheduled", "completed", "retry", "archived", "active"} {
		becomes(t, inspector, "default", id, id)
	}
	return cpp, inspector
}

func payloadOf(id string) string { return `{"for":"` + id + `"}` }

// TASKMUX_INTEROP_CLI names asynq's command-line tool, github.com/hibiken/asynq/tools/asynq.
func TestTheCommandLineToolSeesWhatCppDoes(t *testing.T) {
	tool := os.Getenv("TASKMUX_INTEROP_CLI")
	if tool == "" {
		t.Skip("TASKMUX_INTEROP_CLI does not name asynq's command-line tool")
	}
	_, inspector := stateful(t)
	showsItsWorker(t, inspector)
	says := func(arguments ...string) string {
		t.Helper()
		output, err := exec.Command(tool, append([]string{"--uri", redisSocket}, arguments...)...).CombinedOutput()
		if err != nil {
			t.Errorf("asynq %v: %v: %s", arguments, err, output)
		}
		return string(output)
	}
	holds := func(text string, arguments ...string) {
		t.Helper()
		if output := says(arguments...); !strings.Contains(output, text) {
			t.Errorf("asynq %v does not tell of %q: %s", arguments, text, output)
		}
	}
	holds("idle", "queue", "ls")
	holds("Size:   5", "queue", "inspect", "default")
	// If it lists no task, it still names the state, so its output must contain the payload.
	for _, state := range []string{"scheduled", "completed", "retry", "archived", "active"} {
		holds(payloadOf(state), "task", "ls", "--queue=default", "--state="+state)
		holds("State:   "+state, "task", "inspect", "--queue=default", "--id="+state)
	}
	holds(payloadOf("pending"), "task", "ls", "--queue=idle", "--state=pending")
	host, _ := os.Hostname()
	holds(host, "server", "ls")
	holds("1/3", "server", "ls")
	holds("default", "stats")
}
