package interop

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
)

const allBytes = "\x00\xff\r\n{\"a\":1}\x80"

func TestGoEnqueuesEveryOptionAndCppWorks(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	deadline := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	at := time.Now().Add(1500 * time.Millisecond)
	headers := map[string]string{"trace-id": "4bf92f35", "empty": "", "ключ": "✓"}
	enqueue := func(task *asynq.Task, options ...asynq.Option) {
		t.Helper()
		must[*asynq.TaskInfo](t)(client.Enqueue(task, options...))
	}
	enqueue(asynq.NewTaskWithHeaders("ok", []byte(allBytes), headers), asynq.Queue("critical"), asynq.TaskID("all"),
		asynq.MaxRetry(7), asynq.Timeout(time.Hour), asynq.Retention(time.Hour), asynq.Unique(time.Hour))
	enqueue(asynq.NewTask("ok", nil), asynq.TaskID("plain"))
	enqueue(asynq.NewTask("ok", nil), asynq.TaskID("deadline"), asynq.Deadline(deadline))
	enqueue(asynq.NewTask("ok", nil), asynq.TaskID("at"), asynq.ProcessAt(at), asynq.Retention(time.Hour))
	enqueue(asynq.NewTask("ok", nil), asynq.TaskID("in"), asynq.ProcessIn(time.Second))
	enqueue(asynq.NewTask("ok", nil), asynq.TaskID("id with / : {} and ✓"))
	enqueue(asynq.NewTask("fail", nil), asynq.TaskID("no retry"), asynq.MaxRetry(0))

	task := cpp.do("get", fields{"queue": "critical", "id": "all"})
	equal(t, "state", task.text("state"), "pending")
	equal(t, "max retry", task.number("max_retry"), 7)
	equal(t, "timeout", task.number("timeout_s"), 3600)
	equal(t, "retention", task.number("retention_s"), 3600)
	equal(t, "payload", task.bytes("payload"), allBytes)
	equal(t, "due", cpp.do("get", fields{"id": "at"}).number("next_process_at_us"), at.Unix()*1e6)

	cpp.do("start", fields{"queues": map[string]int{"critical": 6, "default": 1}})
	start := time.Now()
	all := cpp.event("started", "all")
	equal(t, "queue", all.text("queue"), "critical")
	equal(t, "payload", all.bytes("payload"), allBytes)
	equal(t, "headers", len(all["headers"].(map[string]any)), len(headers))
	for key, value := range headers {
		equal(t, "header "+key, all.header(key), value)
	}
	equal(t, "max retry", all.number("max_retry"), 7)
	within(t, "deadline by timeout", time.UnixMicro(all.number("deadline_us")), start.Add(time.Hour))
	equal(t, "max retry", cpp.event("started", "plain").number("max_retry"), 25)
	within(t, "default deadline", time.UnixMicro(cpp.event("started", "plain").number("deadline_us")), start.Add(30*time.Minute))
	equal(t, "deadline", cpp.event("started", "deadline").number("deadline_us"), deadline.UnixMicro())
	cpp.event("succeeded", "id with / : {} and ✓")
	cpp.event("succeeded", "in")
	cpp.event("succeeded", "at")
	if time.Now().Before(at.Truncate(time.Second)) {
		t.Error("a task ran before its time")
	}
	equal(t, "archived at once", cpp.event("archived", "no retry").text("error"), "failed on purpose")

	done := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("critical", "all"))
	equal(t, "state", done.State, asynq.TaskStateCompleted)
	equal(t, "result", string(done.Result), "cpp did all")
	within(t, "completed at", done.CompletedAt, time.Now())
	equal(t, "header kept", done.Headers["trace-id"], "4bf92f35")
	equal(t, "deleted when done", state(inspector, "default", "plain"), "")
	equal(t, "archived", state(inspector, "default", "no retry"), "archived")
}

func TestCppEnqueuesEveryOptionAndGoWorks(t *testing.T) {
	_, inspector := fresh(t)
	cpp := newPeer(t)
	deadline := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	at := time.Now().Add(1500 * time.Millisecond)
	cpp.do("enqueue", fields{"type": "ok", "payload": "00ff0d0a80", "queue": "critical", "id": "all", "max_retry": 7,
		"timeout_ms": 3600000, "retention_ms": 3600000, "unique_ms": 3600000,
		"headers": map[string]string{"trace-id": "4bf92f35", "empty": "", "ключ": "✓"}})
	cpp.do("enqueue", fields{"type": "ok", "id": "plain"})
	cpp.do("enqueue", fields{"type": "ok", "id": "deadline", "deadline_us": deadline.UnixMicro()})
	cpp.do("enqueue", fields{"type": "ok", "id": "at", "process_at_us": at.UnixMicro(), "retention_ms": 3600000})
	cpp.do("enqueue", fields{"type": "ok", "id": "in", "process_in_ms": 1000})
	cpp.do("enqueue", fields{"type": "fail", "id": "no retry", "max_retry": 0})

	info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("critical", "all"))
	equal(t, "state", info.State, asynq.TaskStatePending)
	equal(t, "retention", info.Retention, time.Hour)
	equal(t, "timeout", info.Timeout, time.Hour)
	info = must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "at"))
	equal(t, "due, rounded up", info.NextProcessAt.Unix(), at.Unix()+1)

	start := time.Now()
	worker := startGoWorker(t, 0, map[string]int{"critical": 6, "default": 1})
	all := worker.attempts("all", 1)[0]
	equal(t, "queue", all.queue, "critical")
	equal(t, "payload", all.payload, "\x00\xff\r\n\x80")
	equal(t, "headers", len(all.headers), 3)
	equal(t, "header", all.headers["trace-id"], "4bf92f35")
	equal(t, "header", all.headers["ключ"], "✓")
	equal(t, "max retry", all.maxRetry, 7)
	within(t, "deadline by timeout", all.deadline, start.Add(time.Hour))
	plain := worker.attempts("plain", 1)[0]
	equal(t, "max retry", plain.maxRetry, 25)
	within(t, "default deadline", plain.deadline, start.Add(30*time.Minute))
	equal(t, "deadline", worker.attempts("deadline", 1)[0].deadline.Unix(), deadline.Unix())
	worker.attempts("in", 1)
	worker.attempts("at", 1)
	if time.Now().Before(at) {
		t.Error("a task ran before its time")
	}
	becomes(t, inspector, "default", "no retry", "archived")
	becomes(t, inspector, "critical", "all", "completed")
	done := cpp.do("get", fields{"queue": "critical", "id": "all"})
	equal(t, "state", done.text("state"), "completed")
	equal(t, "result", done.bytes("result"), "go did all")
	within(t, "completed at", time.UnixMicro(done.number("completed_at_us")), time.Now())
}

func TestCppFailsAndGoRetries(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTaskWithHeaders("fail:once", []byte("p"), map[string]string{"k": "v"}),
		asynq.TaskID("f"), asynq.Retention(time.Hour)))
	cpp.do("start", fields{"retry_delay_ms": 3600000})
	cpp.event("retried", "f")
	cpp.do("stop", nil)

	info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "f"))
	equal(t, "state", info.State, asynq.TaskStateRetry)
	equal(t, "retried", info.Retried, 1)
	equal(t, "error", info.LastErr, "failed on purpose")
	within(t, "failed at", info.LastFailedAt, time.Now())
	within(t, "next attempt", info.NextProcessAt, time.Now().Add(time.Hour))

	worker := startGoWorker(t, 0, nil)
	check(t, inspector.RunTask("default", "f"))
	attempt := worker.attempts("f", 1)[0]
	equal(t, "retry count", attempt.retryCount, 1)
	equal(t, "header", attempt.headers["k"], "v")
	equal(t, "payload", attempt.payload, "p")
	becomes(t, inspector, "default", "f", "completed")
}

func TestGoFailsAndCppRetries(t *testing.T) {
	_, inspector := fresh(t)
	cpp := newPeer(t)
	cpp.do("enqueue", fields{"type": "fail:once", "id": "f", "headers": map[string]string{"k": "v"}, "retention_ms": 3600000})
	worker := startGoWorker(t, time.Second, nil)
	worker.end("f")
	becomes(t, inspector, "default", "f", "retry")
	worker.stop()
	before := cpp.do("get", fields{"id": "f"})
	equal(t, "retried", before.number("retried"), 1)
	equal(t, "error", before.text("last_error"), "failed on purpose")

	// Nobody runs it manually: the C++ server notices that it is due.
	cpp.do("start", nil)
	attempt := cpp.event("started", "f")
	equal(t, "retry count", attempt.number("retry_count"), 1)
	equal(t, "header", attempt.header("k"), "v")
	cpp.event("succeeded", "f")
	info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "f"))
	equal(t, "result and state", info.State, asynq.TaskStateCompleted)
	equal(t, "error of the first attempt", info.LastErr, "failed on purpose")
}

func TestFailuresForGoodAreArchivedAlike(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	for _, kind := range []string{"skip", "throw", "fail"} {
		must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask(kind, nil), asynq.TaskID(kind), asynq.MaxRetry(1)))
	}
	cpp.do("start", nil)
	for kind, text := range map[string]string{"skip": "skipped on purpose", "throw": "thrown on purpose", "fail": "failed on purpose"} {
		cpp.event("archived", kind)
		info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", kind))
		equal(t, kind, info.State, asynq.TaskStateArchived)
		equal(t, "retried of "+kind, info.Retried, map[string]int{"skip": 0, "throw": 1, "fail": 1}[kind])
		if !strings.Contains(info.LastErr, text) {
			t.Errorf("error of %s: %q", kind, info.LastErr)
		}
	}
	// Five attempts: one that skipped, two each that threw and failed.
	queue := must[*asynq.QueueInfo](t)(inspector.GetQueueInfo("default"))
	equal(t, "processed", queue.ProcessedTotal, 5)
	equal(t, "failed", queue.FailedTotal, 5)
}

func TestUniqueLocksHoldAcrossSides(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	for _, payload := range []struct {
		name   string
		bytes  []byte
		cpp    fields
		suffix string
	}{
		{"none", nil, fields{}, ""},
		{"empty", []byte{}, fields{"unique_empty_payload": true}, "d41d8cd98f00b204e9800998ecf8427e"},
		{"some", []byte(`{"user_id":42}`), fields{"payload": "7b22757365725f6964223a34327d"}, "1181f89307fa271072c095747d5813cc"},
	} {
		t.Run(payload.name, func(t *testing.T) {
			cpp.t = t
			command := fields{"type": "ok", "unique_ms": 3600000, "id": "of cpp"}
			for key, value := range payload.cpp {
				command[key] = value
			}
			key := "asynq:{default}:unique:ok:" + payload.suffix
			ofGo := func() error {
				_, err := client.Enqueue(asynq.NewTask("ok", payload.bytes), asynq.Unique(time.Hour), asynq.TaskID("of go"))
				return err
			}
			check(t, ofGo())
			equal(t, "holder", redisClient.Get(context.Background(), key).Val(), "of go")
			cpp.refused("duplicate_task", "enqueue", command)
			check(t, inspector.DeleteTask("default", "of go"))

			cpp.do("enqueue", command)
			equal(t, "holder", redisClient.Get(context.Background(), key).Val(), "of cpp")
			if err := ofGo(); !errors.Is(err, asynq.ErrDuplicateTask) {
				t.Errorf("Go may enqueue what C++ has locked: %v", err)
			}
			cpp.do("remove", fields{"id": "of cpp"})

			// Freed by the other side's removal and success.
			check(t, ofGo())
			cpp.do("remove", fields{"id": "of go"})
			cpp.do("enqueue", command)
			check(t, inspector.DeleteTask("default", "of cpp"))
			equal(t, "locks left", redisClient.Exists(context.Background(), key).Val(), 0)
		})
	}
	cpp.t = t

	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", []byte("1")), asynq.Unique(time.Hour), asynq.TaskID("1")))
	cpp.do("start", nil)
	cpp.event("succeeded", "1")
	cpp.do("stop", nil)
	cpp.do("enqueue", fields{"type": "ok", "payload": "31", "unique_ms": 3600000, "id": "2"})
	worker := startGoWorker(t, 0, nil)
	worker.end("2")
	eventually(t, "the lock is free after Go's success", func() bool {
		_, err := cpp.try("enqueue", fields{"type": "ok", "payload": "31", "unique_ms": 3600000, "id": "3"})
		return err == nil
	})
}

func TestTaskIDsConflictAcrossSides(t *testing.T) {
	client, _ := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("go's")))
	cpp.refused("task_id_conflict", "enqueue", fields{"type": "ok", "id": "go's"})
	cpp.do("enqueue", fields{"type": "ok", "id": "cpp's", "process_in_ms": 3600000})
	if _, err := client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("cpp's")); !errors.Is(err, asynq.ErrTaskIDConflict) {
		t.Errorf("got %v", err)
	}
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("cpp's"), asynq.Queue("low")))
}

// within checks that two instants are close.
func within(t *testing.T, what string, got, want time.Time) {
	t.Helper()
	if distance := got.Sub(want).Abs(); distance > patience {
		t.Errorf("%s: got %v, want about %v", what, got, want)
	}
}
