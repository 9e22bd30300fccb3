package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A webUI is a process of asynqmon, which gets the requests that a browser would send. It is built with asynq v0.24.1,
// which fails on data that later readers tolerate: fractional scores, missing timestamps.
type webUI struct {
	t       *testing.T
	address string
}

// buildWebUI returns the path of the program, which is built once per run.
var buildWebUI = sync.OnceValues(func() (string, error) {
	program := filepath.Join(filepath.Dir(redisSocket), "webui")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "webui"
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return program, nil
})

func newWebUI(t *testing.T) *webUI {
	t.Helper()
	process := exec.Command(must[string](t)(buildWebUI()), redisSocket)
	process.Stderr = os.Stderr
	input := must[io.WriteCloser](t)(process.StdinPipe())
	output := must[io.ReadCloser](t)(process.StdoutPipe())
	check(t, process.Start())
	t.Cleanup(func() {
		input.Close()
		if err := process.Wait(); err != nil {
			t.Errorf("the web UI: %v", err)
		}
	})
	address := must[string](t)(bufio.NewReader(output).ReadString('\n'))
	return &webUI{t, strings.TrimSpace(address)}
}

// send makes a request, with `body` as JSON unless it is nil, and returns the response and its body.
func (w *webUI) send(method, path string, body any) (*http.Response, []byte) {
	w.t.Helper()
	var text []byte
	if body != nil {
		text = must[[]byte](w.t)(json.Marshal(body))
	}
	request := must[*http.Request](w.t)(http.NewRequest(method, w.address+path, bytes.NewReader(text)))
	client := http.Client{Timeout: patience}
	answer := must[*http.Response](w.t)(client.Do(request))
	defer answer.Body.Close()
	return answer, must[[]byte](w.t)(io.ReadAll(answer.Body))
}

// ask makes a request whose response is an object.
func (w *webUI) ask(method, path string, body any) fields {
	w.t.Helper()
	answer, text := w.send(method, "/api"+path, body)
	if answer.StatusCode != http.StatusOK {
		w.t.Fatalf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	object := fields{}
	if err := json.Unmarshal(text, &object); err != nil {
		w.t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
	return object
}

// page requests the data of one of the UI's pages.
func (w *webUI) page(path string) fields {
	w.t.Helper()
	return w.ask("GET", path, nil)
}

// answers makes a request of which only the status matters.
func (w *webUI) answers(want int, method, path string) {
	w.t.Helper()
	if answer, text := w.send(method, "/api"+path, nil); answer.StatusCode != want {
		w.t.Fatalf("%s %s: %s, want %d: %s", method, path, answer.Status, want, text)
	}
}

func (w *webUI) post(path string) {
	w.t.Helper()
	w.answers(http.StatusNoContent, "POST", path)
}

func (w *webUI) delete(path string) {
	w.t.Helper()
	w.answers(http.StatusNoContent, "DELETE", path)
}

// task is the page of a task.
func (w *webUI) task(queue, id string) fields {
	w.t.Helper()
	return w.page("/queues/" + queue + "/tasks/" + id)
}

// only returns the one object of a list.
func (w *webUI) only(object fields, key string) fields {
	w.t.Helper()
	list := object.objects(key)
	if len(list) != 1 {
		w.t.Fatalf("%d %s, want one: %v", len(list), key, object)
	}
	return list[0]
}

// none checks that a list exists and is empty.
func (w *webUI) none(object fields, key string) {
	w.t.Helper()
	if list, ok := object[key].([]any); !ok || len(list) > 0 {
		w.t.Errorf("%s: got %v, want an empty list", key, object[key])
	}
}

// shows checks some fields of an object; times only approximately.
func (w *webUI) shows(what string, got, want fields) {
	w.t.Helper()
	for key, value := range want {
		if moment, ok := value.(time.Time); ok {
			shown, err := time.Parse(time.RFC3339, got.text(key))
			if err != nil {
				w.t.Errorf("%s: %s: %v", what, key, err)
			} else {
				within(w.t, what+": "+key, shown, moment)
			}
			continue
		}
		var decoded any
		check(w.t, json.Unmarshal(must[[]byte](w.t)(json.Marshal(value)), &decoded))
		if !reflect.DeepEqual(got[key], decoded) {
			w.t.Errorf("%s: %s: got %v, want %v", what, key, got[key], decoded)
		}
	}
}

func TestWebUILoadsItsPage(t *testing.T) {
	fresh(t)
	ui := newWebUI(t)
	answer, page := ui.send("GET", "/", nil)
	equal(t, "page", answer.StatusCode, http.StatusOK)
	scripts := regexp.MustCompile(`<script src="([^"]+)"`).FindAllSubmatch(page, -1)
	equal(t, "scripts", len(scripts), 2)
	for _, script := range scripts {
		// The UI answers a request for something unknown with the page.
		answer, text := ui.send("GET", string(script[1]), nil)
		equal(t, string(script[1]), answer.Header.Get("Content-Type"), "application/javascript; charset=utf-8")
		if len(text) < 10000 {
			t.Errorf("%s: only %d bytes", script[1], len(text))
		}
	}
	ui.none(ui.page("/queues"), "queues")
	ui.none(ui.page("/servers"), "servers")
	info := ui.page("/redis_info")
	equal(t, "redis", info.text("address"), redisSocket)
	equal(t, "role", info.object("info").text("role"), "master")
}

func TestWebUIShowsTheQueuesOfCpp(t *testing.T) {
	stateful(t)
	ui := newWebUI(t)
	queues := map[string]fields{}
	for _, queue := range ui.page("/queues").objects("queues") {
		queues[queue.text("queue")] = queue
		if usage := queue.number("memory_usage_bytes"); usage <= 0 {
			t.Errorf("%s: %d bytes of memory", queue.text("queue"), usage)
		}
	}
	equal(t, "queues", len(queues), 2)
	ui.shows("default", queues["default"], fields{"size": 5, "pending": 0, "active": 1, "scheduled": 1, "retry": 1, "archived": 1,
		"completed": 1, "aggregating": 0, "processed": 3, "succeeded": 1, "failed": 2, "paused": false, "latency_msec": 0})
	ui.shows("idle", queues["idle"], fields{"size": 1, "pending": 1, "active": 0, "scheduled": 0, "retry": 0, "archived": 0,
		"completed": 0, "processed": 0, "paused": true})
	if latency := queues["idle"].number("latency_msec"); latency <= 0 || latency > patience.Milliseconds() {
		t.Errorf("idle: a latency of %d ms", latency)
	}

	today := fields{"queue": "default", "date": time.Now().UTC().Format(time.DateOnly), "processed": 3, "succeeded": 1, "failed": 2}
	queue := ui.page("/queues/default")
	ui.shows("queue", queue.object("current"), fields{"queue": "default", "size": 5, "processed": 3, "failed": 2})
	history := queue.objects("history")
	equal(t, "days", len(history), 10)
	ui.shows("today", history[0], today)
	ui.shows("yesterday", history[1], fields{"processed": 0, "failed": 0})
	stats := ui.page("/queue_stats").object("stats").objects("default")
	equal(t, "days", len(stats), 90)
	ui.shows("today", stats[0], today)
	ui.none(ui.page("/queues/default/groups"), "groups")
}

func TestWebUIShowsTheTasksOfCpp(t *testing.T) {
	stateful(t)
	ui := newWebUI(t)
	now, inAnHour := time.Now(), time.Now().Add(time.Hour)
	for state, want := range map[string]fields{
		"pending":   {"type": "ok", "retried": 0, "error_message": ""},
		"active":    {"type": "hang"},
		"scheduled": {"type": "ok", "next_process_at": inAnHour},
		"retry":     {"type": "fail", "retried": 1, "error_message": "failed on purpose", "next_process_at": inAnHour},
		"archived":  {"type": "skip", "error_message": "skipped on purpose", "last_failed_at": now},
		"completed": {"type": "ok", "completed_at": now, "result": "cpp did completed"},
	} {
		queue := "default"
		if state == "pending" {
			queue = "idle"
		}
		list, alone := ui.page("/queues/"+queue+"/"+state+"_tasks"), ui.task(queue, state)
		for where, task := range map[string]fields{"listed": ui.only(list, "tasks"), "alone": alone} {
			ui.shows(state+", "+where, task, want)
			ui.shows(state+", "+where, task, fields{"id": state, "queue": queue, "payload": payloadOf(state), "max_retry": 25})
		}
		ui.shows(state, alone, fields{"state": state, "timeout_seconds": 1800, "deadline": ""})
		ui.shows("queue of "+state, list.object("stats"), fields{"queue": queue, state: 1})
	}
	ui.shows("retry", ui.task("default", "retry"), fields{"last_failed_at": now})
	ttl := ui.task("default", "completed").number("ttl_seconds")
	within(t, "kept until", now.Add(time.Duration(ttl)*time.Second), inAnHour)
	ui.answers(http.StatusNotFound, "GET", "/queues/default/tasks/none")
}

func TestWebUIShowsTheServersOfCpp(t *testing.T) {
	cpp, inspector := stateful(t)
	showsItsWorker(t, inspector)
	ui := newWebUI(t)
	now := time.Now()
	host, _ := os.Hostname()
	server := ui.only(ui.page("/servers"), "servers")
	ui.shows("server", server, fields{"host": host, "pid": cpp.pid(), "status": "active", "concurrency": 3, "start_time": now,
		"queue_priorities": map[string]int{"default": 6, "low": 1}, "strict_priority_enabled": false})
	ui.shows("worker", ui.only(server, "active_workers"), fields{"task_id": "active", "queue": "default", "task_type": "hang",
		"task_payload": payloadOf("active"), "start_time": now})
	ui.shows("task", ui.only(ui.page("/queues/default/active_tasks"), "tasks"), fields{"id": "active", "start_time": now,
		"deadline": now.Add(30 * time.Minute), "is_orphaned": false})
	ui.none(ui.page("/scheduler_entries"), "entries")
	cpp.do("stop", nil)
	ui.none(ui.page("/servers"), "servers")
}

func TestWebUIPausesAndResumesAQueueForCpp(t *testing.T) {
	cpp, _ := stateful(t)
	ui := newWebUI(t)
	ui.post("/queues/default:pause")
	equal(t, "paused", cpp.do("queue", nil)["paused"], any(true))
	cpp.do("enqueue", fields{"type": "ok", "id": "held"})
	cpp.do("enqueue", fields{"type": "ok", "id": "elsewhere", "queue": "low"})
	cpp.event("succeeded", "elsewhere")
	equal(t, "ran while it was paused", cpp.saw("started", "held"), false)
	ui.shows("queue", ui.page("/queues/default").object("current"), fields{"paused": true, "pending": 1})
	ui.post("/queues/default:resume")
	cpp.event("succeeded", "held")
	equal(t, "paused", cpp.do("queue", nil)["paused"], any(false))
}

func TestWebUIRunsTasksOfCpp(t *testing.T) {
	cpp, _ := stateful(t)
	ui := newWebUI(t)
	ui.post("/queues/default/scheduled_tasks/scheduled:run")
	cpp.event("succeeded", "scheduled")
	ui.answers(http.StatusNotFound, "GET", "/queues/default/tasks/scheduled")

	ui.post("/queues/default/retry_tasks/retry:run")
	equal(t, "retried before", cpp.eventsOf("started", "retry", 2)[1].number("retry_count"), 1)
	eventually(t, "the UI shows the second failure", func() bool { return ui.task("default", "retry").number("retried") == 2 })
	ui.shows("retried", ui.task("default", "retry"), fields{"state": "retry", "next_process_at": time.Now().Add(time.Hour)})

	ui.post("/queues/default/archived_tasks/archived:run")
	cpp.eventsOf("archived", "archived", 2)
	ui.shows("archived again", ui.task("default", "archived"), fields{"state": "archived", "error_message": "skipped on purpose"})
}

func TestWebUIArchivesAndDeletesTasksOfCpp(t *testing.T) {
	cpp, _ := stateful(t)
	ui := newWebUI(t)
	ui.post("/queues/idle/pending_tasks/pending:archive")
	equal(t, "pending", len(cpp.list("idle", "pending")), 0)
	equal(t, "archived", cpp.list("idle", "archived")[0].text("id"), "pending")
	ui.answers(http.StatusBadRequest, "DELETE", "/queues/idle")
	ui.delete("/queues/idle/archived_tasks/pending")
	cpp.refused("task_not_found", "run", fields{"queue": "idle", "id": "pending"})
	ui.delete("/queues/idle")
	equal(t, "queues", fmt.Sprint(must[any](t)(cpp.try("queues", nil))), "[default]")
	cpp.do("enqueue", fields{"type": "ok", "id": "afterwards", "queue": "idle"})
	equal(t, "back in its queue", ui.task("idle", "afterwards").text("state"), "pending")

	ui.post("/queues/default/scheduled_tasks/scheduled:archive")
	equal(t, "state", cpp.do("get", fields{"id": "scheduled"}).text("state"), "archived")
	cpp.do("run", fields{"id": "scheduled"})
	cpp.event("succeeded", "scheduled")

	unique := fields{"type": "ok", "process_in_ms": 3600000, "unique_ms": 3600000, "payload": "01"}
	id := cpp.do("enqueue", unique).text("id")
	cpp.refused("duplicate_task", "enqueue", unique)
	ui.delete("/queues/default/scheduled_tasks/" + id)
	cpp.do("enqueue", unique)
	for _, state := range []string{"retry", "completed", "archived"} {
		ui.delete("/queues/default/" + state + "_tasks/" + state)
		equal(t, state, len(cpp.list("default", state)), 0)
		cpp.refused("task_not_found", "remove", fields{"id": state})
	}
	ui.answers(http.StatusInternalServerError, "DELETE", "/queues/default/pending_tasks/active")
	equal(t, "state", cpp.do("get", fields{"id": "active"}).text("state"), "active")
}

func TestWebUIActsOnManyTasksOfCpp(t *testing.T) {
	cpp, _ := stateful(t)
	ui := newWebUI(t)
	ui.shows("archive some", ui.ask("POST", "/queues/default/scheduled_tasks:batch_archive", fields{"task_ids": []string{"scheduled"}}),
		fields{"archived_ids": []string{"scheduled"}, "error_ids": []string{}})
	ui.shows("run all", ui.ask("POST", "/queues/default/archived_tasks:run_all", nil), fields{"scheduled": 2})
	cpp.event("succeeded", "scheduled")
	cpp.eventsOf("archived", "archived", 2)
	ui.shows("archive all", ui.ask("POST", "/queues/default/retry_tasks:archive_all", nil), fields{"archived": 1})
	equal(t, "archived", len(cpp.list("default", "archived")), 2)
	ui.shows("run some", ui.ask("POST", "/queues/default/archived_tasks:batch_run", fields{"task_ids": []string{"retry"}}),
		fields{"pending_ids": []string{"retry"}, "error_ids": []string{}})
	cpp.eventsOf("retried", "retry", 2)
	ui.shows("delete all", ui.ask("DELETE", "/queues/default/archived_tasks:delete_all", nil), fields{"deleted": 1})
	ui.shows("delete some", ui.ask("POST", "/queues/default/completed_tasks:batch_delete", fields{"task_ids": []string{"completed"}}),
		fields{"deleted_ids": []string{"completed"}, "failed_ids": []string{}})
	ui.shows("delete all pending", ui.ask("DELETE", "/queues/idle/pending_tasks:delete_all", nil), fields{"deleted": 1})
	info := cpp.do("queue", nil)
	for state, want := range map[string]int64{"active": 1, "retry": 1, "pending": 0, "scheduled": 0, "archived": 0, "completed": 0} {
		equal(t, state, info.number(state), want)
	}
	equal(t, "idle", cpp.do("queue", fields{"queue": "idle"}).number("pending"), 0)
}

func TestWebUICancelsHandlersOfCpp(t *testing.T) {
	cpp, _ := stateful(t)
	ui := newWebUI(t)
	cancelled := func(id string) {
		t.Helper()
		equal(t, "reason", cpp.event("stopping", id).text("reason"), "cancelled")
		cpp.event("retried", id)
		ui.shows(id, ui.task("default", id), fields{"state": "retry", "retried": 1, "error_message": "stopped"})
	}
	cpp.do("enqueue", fields{"type": "hang", "id": "other"})
	cpp.event("started", "other")
	ui.post("/queues/default/active_tasks/active:cancel")
	cancelled("active")
	equal(t, "other", ui.task("default", "other").text("state"), "active")
	cpp.do("enqueue", fields{"type": "hang", "id": "third"})
	cpp.event("started", "third")
	ui.post("/queues/default/active_tasks:cancel_all")
	cancelled("other")
	cancelled("third")
	ui.none(ui.page("/queues/default/active_tasks"), "tasks")
}
