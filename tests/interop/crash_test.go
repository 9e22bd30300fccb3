package interop

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// leaseEnded makes a lease look as if it had expired long ago, so that tests need not wait.
func leaseEnded(t *testing.T, id string, ago time.Duration) {
	t.Helper()
	score := float64(time.Now().Add(-ago).Unix())
	changed := redisClient.ZAddArgs(context.Background(), "asynq:{default}:lease",
		redis.ZAddArgs{XX: true, Ch: true, Members: []redis.Z{{Score: score, Member: id}}})
	equal(t, "leases changed", must[int64](t)(changed.Result()), 1)
}

func killGoWorkerAt(t *testing.T, id string) {
	t.Helper()
	worker := exec.Command(must[string](t)(os.Executable()))
	worker.Env = append(os.Environ(), "TASKMUX_INTEROP_WORKER="+redisSocket)
	worker.Stderr = os.Stderr
	output := must[io.ReadCloser](t)(worker.StdoutPipe())
	check(t, worker.Start())
	started := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(output)
		lines.Scan()
		started <- lines.Text()
	}()
	select {
	case line := <-started:
		equal(t, "the Go worker says", line, "started "+id)
	case <-time.After(patience):
		t.Error("the Go worker starts nothing")
	}
	worker.Process.Kill()
	worker.Wait()
}

func TestCppRecoversWhatAKilledGoWorkerRan(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTaskWithHeaders("ok", []byte("p"), map[string]string{"k": "v"}), asynq.TaskID("lost"), asynq.Retention(time.Hour)))
	killGoWorkerAt(t, "lost")
	equal(t, "state", state(inspector, "default", "lost"), "active")

	// Its lease has expired, but asynq's 30 seconds of grace have not passed: it must not be taken over.
	leaseEnded(t, "lost", 12*time.Second)
	cpp.do("start", nil)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("hang", nil), asynq.TaskID("other")))
	cpp.event("started", "other")
	time.Sleep(12 * time.Second) // More than a whole lease of contact, after which a server begins to sweep.
	equal(t, "taken over too early", cpp.saw("started", "lost"), false)
	equal(t, "state", state(inspector, "default", "lost"), "active")

	eventually(t, "C++ takes over the lost run", func() bool { return cpp.saw("succeeded", "lost") })
	attempt := cpp.event("started", "lost")
	equal(t, "retry count", attempt.number("retry_count"), 1)
	equal(t, "header", attempt.header("k"), "v")
	done := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "lost"))
	equal(t, "state", done.State, asynq.TaskStateCompleted)
	equal(t, "retried", done.Retried, 1)
}

func TestGoRecoversWhatAKilledCppWorkerRan(t *testing.T) {
	_, inspector := fresh(t)
	cpp := newPeer(t)
	cpp.do("enqueue", fields{"type": "hang", "id": "lost", "headers": map[string]string{"k": "v"}})
	cpp.do("start", nil)
	cpp.event("started", "lost")
	cpp.kill()
	equal(t, "state", state(inspector, "default", "lost"), "active")
	leaseEnded(t, "lost", 31*time.Second)
	active := must[[]*asynq.TaskInfo](t)(inspector.ListActiveTasks("default"))
	equal(t, "orphaned", len(active) == 1 && active[0].IsOrphaned, true)

	// A Go server recovers lost runs at its start and then once a minute.
	worker := startGoWorker(t, time.Hour, nil)
	becomes(t, inspector, "default", "lost", "retry")
	info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "lost"))
	equal(t, "error", info.LastErr, "asynq: task lease expired")
	equal(t, "retried", info.Retried, 1)
	check(t, inspector.RunTask("default", "lost"))
	attempt := worker.attempts("lost", 1)[0]
	equal(t, "header", attempt.headers["k"], "v")
	equal(t, "retry count", attempt.retryCount, 1)
}

func TestCppRecoversWhatAKilledCppWorkerRanInSeconds(t *testing.T) {
	_, inspector := fresh(t)
	first, second := newPeer(t), newPeer(t)
	second.do("enqueue", fields{"type": "hang", "id": "lost"})
	first.do("start", nil)
	first.event("started", "lost")
	second.do("start", nil)
	killed := time.Now()
	first.kill()
	second.event("started", "lost")
	t.Logf("taken over after %v", time.Since(killed).Round(time.Millisecond))
	equal(t, "state", state(inspector, "default", "lost"), "active")
}

// A Go server that takes a task after C++ leaves no field of taskmux's behind that causes problems.
func TestARunChangesSides(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("hang", nil), asynq.TaskID("h")))
	cpp.do("start", nil)
	cpp.event("started", "h")
	cpp.do("stop", nil)
	worker := startGoWorker(t, 0, nil)
	worker.attempts("h", 1)
	worker.stop()
	becomes(t, inspector, "default", "h", "pending")
	cpp.do("start", nil)
	cpp.eventsOf("started", "h", 2)
	fence := redisClient.HExists(context.Background(), "asynq:{default}:t:h", "tmx_run").Val()
	equal(t, "fence", fence, true)
	cpp.do("stop", nil)
	equal(t, "fence left", redisClient.HExists(context.Background(), "asynq:{default}:t:h", "tmx_run").Val(), false)
}

// Fencing: a C++ worker that was stopped for so long that Go took its task over does not affect Go's run.
func TestAStaleCppWorkerLeavesTheRunOfGoAlone(t *testing.T) {
	_, inspector := fresh(t)
	cpp := newPeer(t)
	cpp.do("enqueue", fields{"type": "hang", "id": "lost"})
	cpp.do("start", nil)
	cpp.event("started", "lost")
	check(t, cpp.process.Process.Signal(syscall.SIGSTOP))
	t.Cleanup(func() { cpp.process.Process.Signal(syscall.SIGCONT) })
	leaseEnded(t, "lost", 31*time.Second)
	worker := startGoWorker(t, time.Hour, nil)
	becomes(t, inspector, "default", "lost", "retry")
	check(t, inspector.RunTask("default", "lost"))
	worker.attempts("lost", 1)

	check(t, cpp.process.Process.Signal(syscall.SIGCONT))
	equal(t, "reason", cpp.event("stopping", "lost").text("reason"), "lease lost")
	cpp.do("stop", nil)
	equal(t, "state", state(inspector, "default", "lost"), "active")
	check(t, inspector.CancelProcessing("lost"))
	becomes(t, inspector, "default", "lost", "retry")
	info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "lost"))
	equal(t, "the end is Go's", info.LastErr, "context canceled")
	equal(t, "retried", info.Retried, 2)
}
