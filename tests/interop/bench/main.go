// Bench compares asynq and taskmux on one Redis, which it starts itself: how fast each processes tasks that were enqueued
// before, and how soon an idle taskmux server starts a task that a Go producer enqueues.
//
//	bench [-tasks 50000] [-repeat 3] <taskmux_bench> <taskmux_interop_peer>
//
// The first figure is for servers with 10 handlers that do nothing, and tasks of 100 bytes: the medians of alternating
// runs. The second is the time from before the call of Enqueue until the first line of the handler.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	concurrency  = 10
	payloadBytes = 100
	pickups      = 300
)

func main() {
	tasks := flag.Int("tasks", 50000, "of one repeat")
	repeat := flag.Int("repeat", 3, "repeats; the median counts")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	home := must(os.MkdirTemp("", "bench"))
	defer os.RemoveAll(home)
	address := freeAddress()
	_, port, _ := strings.Cut(address, ":")
	server := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", home)
	check(server.Start())
	defer server.Wait()
	defer server.Process.Kill()
	client := redis.NewClient(&redis.Options{Addr: address})
	for client.Ping(context.Background()).Err() != nil {
		time.Sleep(20 * time.Millisecond)
	}

	fmt.Printf("load before: %s", must(os.ReadFile("/proc/loadavg")))
	var ofAsynq, ofTaskmux []float64
	for range *repeat {
		check(client.FlushAll(context.Background()).Err())
		ofAsynq = append(ofAsynq, asynqRate(address, *tasks))
		check(client.FlushAll(context.Background()).Err())
		ofTaskmux = append(ofTaskmux, taskmuxRate(flag.Arg(0), address, *tasks))
	}
	fmt.Printf("asynq    %8.0f tasks/s  %v\n", at(ofAsynq, 0.5), rounded(ofAsynq))
	fmt.Printf("taskmux  %8.0f tasks/s  %v\n", at(ofTaskmux, 0.5), rounded(ofTaskmux))
	fmt.Printf("ratio    %8.1f\n", at(ofTaskmux, 0.5)/at(ofAsynq, 0.5))

	check(client.FlushAll(context.Background()).Err())
	waits := pickupTimes(flag.Arg(1), address)
	fmt.Printf("pickup of a Go producer's task by an idle taskmux server: p50 %.2f ms, p99 %.2f ms, max %.2f ms (%d tasks)\n",
		at(waits, 0.5), at(waits, 0.99), at(waits, 1), len(waits))
	fmt.Printf("load after: %s", must(os.ReadFile("/proc/loadavg")))
}

// freeAddress finds a free port on loopback.
func freeAddress() string {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	return listener.Addr().String()
}

func asynqRate(address string, tasks int) float64 {
	options := asynq.RedisClientOpt{Addr: address}
	client := asynq.NewClient(options)
	defer client.Close()
	var left atomic.Int64
	left.Store(int64(tasks))
	var producers sync.WaitGroup
	for range 4 {
		producers.Add(1)
		go func() {
			defer producers.Done()
			for left.Add(-1) >= 0 {
				must(client.Enqueue(asynq.NewTask("bench", make([]byte, payloadBytes))))
			}
		}()
	}
	producers.Wait()

	var done sync.WaitGroup
	done.Add(tasks)
	server := asynq.NewServer(options, asynq.Config{Concurrency: concurrency, LogLevel: asynq.ErrorLevel})
	begun := time.Now()
	check(server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		done.Done()
		return nil
	})))
	done.Wait()
	taken := time.Since(begun)
	server.Shutdown()
	return float64(tasks) / taken.Seconds()
}

func taskmuxRate(program, address string, tasks int) float64 {
	command := exec.Command(program, "--broker", "redis://"+address, "--scenario", "process", "--tasks", fmt.Sprint(tasks),
		"--concurrency", fmt.Sprint(concurrency), "--payload", fmt.Sprint(payloadBytes), "--repeat", "1", "--json")
	command.Stderr = os.Stderr
	var report struct {
		TasksPerS float64 `json:"tasks_per_s"`
	}
	output := must(command.Output())
	check(json.Unmarshal(output, &report))
	if report.TasksPerS == 0 {
		log.Fatalf("%s tells no tasks_per_s: %s", program, output)
	}
	return report.TasksPerS
}

// pickupTimes are in milliseconds.
func pickupTimes(program, address string) []float64 {
	peer := exec.Command(program, "redis://"+address)
	input, output := must(peer.StdinPipe()), bufio.NewScanner(must(peer.StdoutPipe()))
	check(peer.Start())
	defer peer.Wait()
	defer input.Close()
	must(io.WriteString(input, `{"op": "start", "concurrency": 10}`+"\n"))
	started := make(chan int64)
	go func() {
		defer close(started)
		for output.Scan() {
			var line struct {
				Event string
				AtUs  int64 `json:"at_us"`
			}
			check(json.Unmarshal(output.Bytes(), &line))
			if strings.HasPrefix(line.Event, "started") {
				started <- line.AtUs
			}
		}
	}()
	client := asynq.NewClient(asynq.RedisClientOpt{Addr: address})
	defer client.Close()
	time.Sleep(time.Second)
	var waits []float64
	for i := range pickups + 1 {
		time.Sleep(time.Duration(5+rand.Intn(20)) * time.Millisecond)
		enqueued := time.Now()
		must(client.Enqueue(asynq.NewTask("ok", make([]byte, payloadBytes))))
		if wait := float64(<-started-enqueued.UnixMicro()) / 1e3; i > 0 { // The first makes connections.
			waits = append(waits, wait)
		}
	}
	return waits
}

// at returns the quantile q of some figures.
func at(figures []float64, q float64) float64 {
	sorted := append([]float64{}, figures...)
	sort.Float64s(sorted)
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func rounded(figures []float64) []int {
	var whole []int
	for _, figure := range figures {
		whole = append(whole, int(figure+0.5))
	}
	return whole
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
