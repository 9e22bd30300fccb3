package interop

import (
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"
)

// Servers of both sides on one queue: each task runs once on one of them, and either may retry what the other failed.
func TestAMixedFleetRunsEachTaskOnce(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	check(t, inspector.PauseQueue("default"))
	const tasks = 1000
	attempts := 0
	for i := range tasks {
		id, kind := fmt.Sprint(i), "ok"
		attempts++
		if i%10 == 0 {
			kind = "fail:once"
			attempts++
		}
		if i%2 == 0 {
			must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask(kind, nil), asynq.TaskID(id), asynq.Retention(time.Hour)))
		} else {
			cpp.do("enqueue", fields{"type": kind, "id": id, "retention_ms": 3600000})
		}
	}
	// Go moves due tasks to pending only periodically; C++ would get all retries.
	cpp.do("start", fields{"concurrency": 1})
	worker := startGoWorker(t, 0, nil)
	check(t, inspector.UnpauseQueue("default"))

	var queue *asynq.QueueInfo
	eventually(t, "all tasks are completed", func() bool {
		queue = must[*asynq.QueueInfo](t)(inspector.GetQueueInfo("default"))
		return queue.Completed == tasks
	})
	equal(t, "processed", queue.ProcessedTotal, attempts)
	equal(t, "failed", queue.FailedTotal, attempts-tasks)
	byGo, byCpp := 0, 0
	// The peer's hooks run on a separate thread: its last events may arrive after the tasks have ended.
	eventually(t, "each attempt has been reported", func() bool {
		byGo, byCpp = 0, 0
		worker.mutex.Lock()
		for _, starts := range worker.starts {
			byGo += len(starts)
		}
		worker.mutex.Unlock()
		cpp.mutex.Lock()
		for _, event := range cpp.events {
			if event.text("event") == "started" {
				byCpp++
			}
		}
		cpp.mutex.Unlock()
		return byGo+byCpp >= attempts
	})
	t.Logf("%d attempts by Go, %d by C++", byGo, byCpp)
	equal(t, "attempts", byGo+byCpp, attempts)
}

func TestCppShowsAndRunsWhatGoGrouped(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	for _, id := range []string{"1", "2"} {
		must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("fail:once", nil), asynq.TaskID(id), asynq.Group("g"), asynq.Retention(time.Hour)))
	}
	equal(t, "state", cpp.do("get", fields{"id": "1"}).text("state"), "aggregating")
	equal(t, "listed", len(cpp.list("default", "aggregating")), 2)
	check(t, inspector.RunTask("default", "1"))
	cpp.do("start", fields{"retry_delay_ms": 100})
	cpp.event("retried", "1")
	// As with Go, a grouped task returns to its group after a retry.
	becomes(t, inspector, "default", "1", "aggregating")
	check(t, inspector.RunTask("default", "1"))
	cpp.event("succeeded", "1")
	info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", "1"))
	equal(t, "group kept", info.Group, "g")
	equal(t, "state", info.State, asynq.TaskStateCompleted)
	equal(t, "the other is left alone", state(inspector, "default", "2"), "aggregating")
}
