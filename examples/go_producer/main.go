// A Go producer beside a C++ worker: enqueues with hibiken/asynq what redis_worker.cpp works off, and waits for the last
// result. Nothing of it knows that the worker is not Go's. Needs Go 1.24; nobody needs it to use taskmux.
//
//	redis_worker redis://127.0.0.1:6379 &          # built with the other examples
//	go run . redis://127.0.0.1:6379 100
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
)

func main() {
	url, count := "redis://127.0.0.1:6379", 100
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	if len(os.Args) > 2 {
		count = must(strconv.Atoi(os.Args[2]))
	}
	redis := must(asynq.ParseRedisURI(url))
	client, inspector := asynq.NewClient(redis), asynq.NewInspector(redis)
	defer client.Close()
	defer inspector.Close()

	var sent []*asynq.TaskInfo
	for i := range count {
		task := asynq.NewTask("email:welcome", fmt.Appendf(nil, "user%d@example.org", i))
		sent = append(sent, must(client.Enqueue(task, asynq.MaxRetry(5), asynq.Timeout(30*time.Second), asynq.Retention(10*time.Minute))))
	}
	fmt.Println(len(sent), "enqueued")

	var last string
	deadline := time.Now().Add(30 * time.Second)
	for _, task := range sent {
		for task.State != asynq.TaskStateCompleted {
			if time.Now().After(deadline) {
				log.Fatalf("task %s is still %s: is a worker running?", task.ID, task.State)
			}
			time.Sleep(time.Millisecond)
			task = must(inspector.GetTaskInfo(task.Queue, task.ID))
		}
		last = string(task.Result)
	}
	fmt.Printf("%d done; the last: %s\n", len(sent), last)
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
