// Reader shows, as JSON, all that the inspector of asynq v0.24.1 sees: the version behind asynqmon, and the most particular
// reader of the wire format. It fails where that inspector reports an error.
//
//	reader <Unix socket of Redis>
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/hibiken/asynq"
)

type queue struct {
	Size, Pending, Active, Scheduled, Retry, Archived, Completed int
	Processed, Failed                                            int
	Paused                                                       bool
	Days                                                         int
	Tasks                                                        map[string][]string
}

type server struct {
	ID, Host, Status string
	PID, Concurrency int
	Queues           map[string]int
	Workers          []string
}

type view struct {
	Queues  map[string]queue
	Servers []server
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	inspector := asynq.NewInspector(asynq.RedisClientOpt{Network: "unix", Addr: os.Args[1]})
	defer inspector.Close()
	seen := view{Queues: map[string]queue{}}
	for _, name := range must(inspector.Queues()) {
		seen.Queues[name] = queueOf(inspector, name)
	}
	for _, info := range must(inspector.Servers()) {
		entry := server{ID: info.ID, Host: info.Host, Status: info.Status, PID: info.PID, Concurrency: info.Concurrency, Queues: info.Queues}
		for _, worker := range info.ActiveWorkers {
			entry.Workers = append(entry.Workers, worker.TaskID)
		}
		seen.Servers = append(seen.Servers, entry)
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		log.Fatal(err)
	}
}

func queueOf(inspector *asynq.Inspector, name string) queue {
	info := must(inspector.GetQueueInfo(name))
	found := queue{Size: info.Size, Pending: info.Pending, Active: info.Active, Scheduled: info.Scheduled, Retry: info.Retry,
		Archived: info.Archived, Completed: info.Completed, Processed: info.Processed, Failed: info.Failed, Paused: info.Paused,
		Days: len(must(inspector.History(name, 90))), Tasks: map[string][]string{}}
	for state, list := range map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		"pending": inspector.ListPendingTasks, "active": inspector.ListActiveTasks, "scheduled": inspector.ListScheduledTasks,
		"retry": inspector.ListRetryTasks, "archived": inspector.ListArchivedTasks, "completed": inspector.ListCompletedTasks,
	} {
		for _, task := range must(list(name)) {
			must(inspector.GetTaskInfo(name, task.ID))
			found.Tasks[state] = append(found.Tasks[state], task.ID)
		}
	}
	return found
}
