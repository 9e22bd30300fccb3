package interop

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/hibiken/asynq"
)

func TestPauseIsHonouredByTheOtherSide(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("1")))
	check(t, inspector.PauseQueue("default"))
	equal(t, "paused", cpp.do("queue", nil)["paused"], any(true))
	cpp.refused("wrong_state", "pause", nil)
	cpp.do("enqueue", fields{"type": "ok", "id": "elsewhere", "queue": "open"})
	cpp.do("start", fields{"queues": map[string]int{"default": 5, "open": 1}})
	cpp.event("succeeded", "elsewhere")
	equal(t, "ran while Go had paused it", cpp.saw("started", "1"), false)
	resumed := time.Now()
	check(t, inspector.UnpauseQueue("default"))
	cpp.event("succeeded", "1")
	t.Logf("C++ took the task %v after Go resumed the queue", time.Since(resumed).Round(time.Millisecond))
	cpp.do("stop", nil)

	cpp.do("pause", nil)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("2")))
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("3"), asynq.Queue("open")))
	equal(t, "paused", must[*asynq.QueueInfo](t)(inspector.GetQueueInfo("default")).Paused, true)
	worker := startGoWorker(t, 0, map[string]int{"default": 5, "open": 1})
	worker.end("3")
	equal(t, "ran while C++ had paused it", worker.started("2"), false)
	cpp.do("unpause", nil)
	worker.end("2")
}

func TestGoCancelsACppHandler(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("hang", nil), asynq.TaskID("h")))
	cpp.do("start", fields{"retry_delay_ms": 3600000})
	cpp.event("started", "h")
	check(t, inspector.CancelProcessing("h"))
	equal(t, "reason", cpp.event("stopping", "h").text("reason"), "cancelled")
	cpp.event("retried", "h")
	becomes(t, inspector, "default", "h", "retry")
}

func TestCppCancelsAGoHandler(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("hang", nil), asynq.TaskID("h")))
	worker := startGoWorker(t, time.Hour, nil)
	worker.attempts("h", 1)
	cpp.do("cancel", fields{"id": "h"})
	equal(t, "end", worker.end("h"), context.Canceled)
	becomes(t, inspector, "default", "h", "retry")
	equal(t, "error", cpp.do("get", fields{"id": "h"}).text("last_error"), "context canceled")
	cpp.refused("wrong_state", "cancel", fields{"id": "h"})
	cpp.refused("task_not_found", "cancel", fields{"id": "none"})
}

func TestGoRunsArchivesAndDeletesWhatCppEnqueued(t *testing.T) {
	_, inspector := fresh(t)
	cpp := newPeer(t)
	for _, id := range []string{"s", "p"} {
		command := fields{"type": "ok", "id": id, "payload": "01"}
		if id == "s" {
			command["process_in_ms"] = 3600500
		}
		cpp.do("enqueue", command)
	}
	check(t, inspector.ArchiveTask("default", "p"))
	equal(t, "archived", cpp.list("default", "archived")[0].text("id"), "p")
	check(t, inspector.RunTask("default", "p"))
	check(t, inspector.RunTask("default", "s"))
	equal(t, "pending", len(cpp.list("default", "pending")), 2)
	check(t, inspector.DeleteTask("default", "p"))
	cpp.refused("task_not_found", "run", fields{"id": "p"})
	cpp.do("start", nil)
	cpp.event("succeeded", "s")
	cpp.do("stop", nil)
	cpp.do("enqueue", fields{"type": "ok", "id": "t", "process_in_ms": 3600000})
	check(t, inspector.UpdateTaskPayload("default", "t", []byte("new")))
	equal(t, "payload", cpp.do("get", fields{"id": "t"}).bytes("payload"), "new")
	equal(t, "all run", must[int](t)(inspector.RunAllScheduledTasks("default")), 1)
	equal(t, "all archived", must[int](t)(inspector.ArchiveAllPendingTasks("default")), 1)
	equal(t, "all deleted", must[int](t)(inspector.DeleteAllArchivedTasks("default")), 1)
	check(t, inspector.DeleteQueue("default", false))
}

func TestCppRunsArchivesAndDeletesWhatGoEnqueued(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("s"), asynq.ProcessIn(time.Hour)))
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("p")))
	cpp.do("archive", fields{"id": "p"})
	equal(t, "state", state(inspector, "default", "p"), "archived")
	cpp.refused("wrong_state", "archive", fields{"id": "p"})
	cpp.do("run", fields{"id": "p"})
	cpp.do("run", fields{"id": "s"})
	equal(t, "pending", len(must[[]*asynq.TaskInfo](t)(inspector.ListPendingTasks("default"))), 2)
	cpp.do("remove", fields{"id": "p"})
	equal(t, "state", state(inspector, "default", "p"), "")
	worker := startGoWorker(t, 0, nil)
	worker.end("s")
}

func TestGoListsTheServersAndWorkersOfCpp(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("hang", []byte("p")), asynq.TaskID("h"), asynq.Queue("low"), asynq.Timeout(time.Minute)))
	id := cpp.do("start", fields{"concurrency": 3, "queues": map[string]int{"default": 6, "low": 1}, "strict": true}).text("server_id")
	cpp.event("started", "h")
	var server *asynq.ServerInfo
	eventually(t, "Go sees the worker of the C++ server", func() bool {
		servers := must[[]*asynq.ServerInfo](t)(inspector.Servers())
		if len(servers) != 1 {
			return false
		}
		server = servers[0]
		return len(server.ActiveWorkers) == 1
	})
	host, _ := os.Hostname()
	equal(t, "id", server.ID, id)
	equal(t, "host", server.Host, host)
	equal(t, "pid", server.PID, cpp.pid())
	equal(t, "concurrency", server.Concurrency, 3)
	equal(t, "queues", len(server.Queues), 2)
	equal(t, "priority", server.Queues["default"], 6)
	equal(t, "strict", server.StrictPriority, true)
	equal(t, "status", server.Status, "active")
	within(t, "started", server.Started, time.Now())
	worker := server.ActiveWorkers[0]
	equal(t, "task", worker.TaskID, "h")
	equal(t, "type", worker.TaskType, "hang")
	equal(t, "payload", string(worker.TaskPayload), "p")
	equal(t, "queue", worker.Queue, "low")
	within(t, "worker started", worker.Started, time.Now())
	within(t, "deadline", worker.Deadline, worker.Started.Add(time.Minute))
	active := must[[]*asynq.TaskInfo](t)(inspector.ListActiveTasks("low"))
	equal(t, "active", len(active), 1)
	equal(t, "orphaned", active[0].IsOrphaned, false)

	cpp.do("stop", nil)
	equal(t, "servers", len(must[[]*asynq.ServerInfo](t)(inspector.Servers())), 0)
	equal(t, "the unfinished task is back", state(inspector, "low", "h"), "pending")
}

func TestCppListsTheServersAndWorkersOfGo(t *testing.T) {
	client, _ := fresh(t)
	cpp := newPeer(t)
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("hang", nil), asynq.TaskID("h")))
	worker := startGoWorker(t, 0, map[string]int{"default": 3})
	worker.attempts("h", 1)
	var server fields
	eventually(t, "C++ sees the worker of the Go server", func() bool {
		reply, err := cpp.try("servers", nil)
		check(t, err)
		servers := reply.([]any)
		if len(servers) != 1 {
			return false
		}
		server = servers[0].(map[string]any)
		return len(server["workers"].([]any)) == 1
	})
	equal(t, "pid", server.number("pid"), int64(os.Getpid()))
	equal(t, "concurrency", server.number("concurrency"), 2)
	equal(t, "status", server.text("status"), "active")
	equal(t, "task", fields(server["workers"].([]any)[0].(map[string]any)).text("task_id"), "h")
	worker.stop()
}

func TestAMalformedMessageIsSetAsideAndListed(t *testing.T) {
	client, inspector := fresh(t)
	cpp := newPeer(t)
	ctx := context.Background()
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("first")))
	for id, msg := range map[string]string{
		"garbage":  "\xff\xff not protobuf",
		"bad-utf8": "\x0a\x02ok\x1a\x08bad-utf8\x22\x07default\x3a\x01\xff",
		"foreign":  "\x0a\x02ok\x1a\x05other\x22\x07default",
	} {
		check(t, redisClient.HSet(ctx, "asynq:{default}:t:"+id, "msg", msg, "state", "pending").Err())
		check(t, redisClient.LPush(ctx, "asynq:{default}:pending", id).Err())
	}
	check(t, redisClient.LPush(ctx, "asynq:{default}:pending", "without hash").Err())
	must[*asynq.TaskInfo](t)(client.Enqueue(asynq.NewTask("ok", nil), asynq.TaskID("last")))
	cpp.do("start", nil)
	cpp.event("succeeded", "first")
	cpp.event("succeeded", "last")
	for _, id := range []string{"garbage", "bad-utf8", "foreign"} {
		becomes(t, inspector, "default", id, "archived")
		info := must[*asynq.TaskInfo](t)(inspector.GetTaskInfo("default", id))
		equal(t, "type", info.Type, "taskmux:malformed")
		if info.LastErr == "" {
			t.Errorf("%s: no reason is given", id)
		}
	}
	archived := must[[]*asynq.TaskInfo](t)(inspector.ListArchivedTasks("default"))
	equal(t, "archived", len(archived), 3)
	queue := must[*asynq.QueueInfo](t)(inspector.GetQueueInfo("default"))
	equal(t, "pending", queue.Pending, 0)
	equal(t, "active", queue.Active, 0)
	equal(t, "ghosts", redisClient.Exists(ctx, "asynq:{default}:t:without hash").Val(), 0)
	for _, id := range []string{"garbage", "bad-utf8", "foreign"} {
		check(t, inspector.DeleteTask("default", id))
	}
}
