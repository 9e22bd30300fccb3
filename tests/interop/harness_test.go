package interop

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const patience = 20 * time.Second

var (
	redisSocket string
	peerPath    = os.Getenv("TASKMUX_INTEROP_PEER")
	redisClient *redis.Client
)

// TestMain starts a Redis server for the run. Started with TASKMUX_INTEROP_WORKER set, the program is a Go worker
// instead, which tests can kill.
func TestMain(m *testing.M) {
	if socket := os.Getenv("TASKMUX_INTEROP_WORKER"); socket != "" {
		goWorkerProcess(socket)
		return
	}
	if _, err := os.Stat(peerPath); err != nil {
		log.Fatalf("TASKMUX_INTEROP_PEER must name the C++ peer: %v", err)
	}
	os.Exit(withRedis(m.Run))
}

func withRedis(run func() int) int {
	home, err := os.MkdirTemp("", "interop")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(home)
	redisSocket = filepath.Join(home, "redis.sock")
	server := exec.Command("redis-server", "--port", "0", "--unixsocket", redisSocket, "--save", "3600 1", "--appendonly", "no",
		"--dir", home, "--logfile", filepath.Join(home, "log"))
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	redisClient = redis.NewClient(&redis.Options{Network: "unix", Addr: redisSocket})
	defer redisClient.Close()
	for deadline := time.Now().Add(patience); redisClient.Ping(context.Background()).Err() != nil; {
		if time.Now().After(deadline) {
			log.Fatal("redis-server does not answer")
		}
		time.Sleep(20 * time.Millisecond)
	}
	return run()
}

func goOptions() asynq.RedisClientOpt {
	return asynq.RedisClientOpt{Network: "unix", Addr: redisSocket}
}

func cppURL() string { return "redis-socket://" + redisSocket }

// fresh empties Redis and returns the Go side's client and inspector. Statistics are kept per day, in UTC; a test does
// not begin shortly before midnight, so that all its statistics belong to one day.
func fresh(t *testing.T) (*asynq.Client, *asynq.Inspector) {
	t.Helper()
	const day, test = 24 * time.Hour, time.Minute
	if left := day - time.Since(time.Now().Truncate(day)); left < test {
		time.Sleep(left)
	}
	if err := redisClient.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	client, inspector := asynq.NewClient(goOptions()), asynq.NewInspector(goOptions())
	t.Cleanup(func() {
		client.Close()
		inspector.Close()
	})
	return client, inspector
}

// eventually waits until other processes make a condition true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// A fields is a JSON object.
type fields map[string]any

func (f fields) text(key string) string {
	text, _ := f[key].(string)
	return text
}

func (f fields) number(key string) int64 {
	number, _ := f[key].(float64)
	return int64(number)
}

func (f fields) bytes(key string) string {
	bytes, _ := hex.DecodeString(f.text(key))
	return string(bytes)
}

func (f fields) header(key string) string {
	headers, _ := f["headers"].(map[string]any)
	text, _ := headers[key].(string)
	return text
}

func (f fields) object(key string) fields {
	object, _ := f[key].(map[string]any)
	return object
}

func (f fields) objects(key string) []fields {
	list, _ := f[key].([]any)
	var objects []fields
	for _, element := range list {
		object, _ := element.(map[string]any)
		objects = append(objects, object)
	}
	return objects
}

// A peer is a C++ process: client, inspector and, once started, server.
type peer struct {
	t       *testing.T
	process *exec.Cmd
	input   io.WriteCloser
	replies chan fields

	mutex  sync.Mutex
	events []fields
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	p := &peer{t: t, process: exec.Command(peerPath, cppURL()), replies: make(chan fields, 1)}
	p.process.Stderr = os.Stderr
	p.input = must[io.WriteCloser](t)(p.process.StdinPipe())
	output := must[io.ReadCloser](t)(p.process.StdoutPipe())
	check(t, p.process.Start())
	done := make(chan struct{})
	go p.read(output, done)
	t.Cleanup(func() {
		p.input.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the C++ peer does not end")
			p.process.Process.Kill()
			<-done
		}
		p.process.Wait()
	})
	return p
}

func (p *peer) read(output io.Reader, done chan<- struct{}) {
	defer close(done)
	for lines := bufio.NewScanner(output); lines.Scan(); {
		line := fields{}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			p.t.Errorf("the C++ peer says %q", lines.Text())
			continue
		}
		if line["event"] == nil {
			p.replies <- line
			continue
		}
		p.mutex.Lock()
		p.events = append(p.events, line)
		p.mutex.Unlock()
	}
}

var errPeer = errors.New("the C++ peer")

// try sends a command and waits for its reply; the error contains the name of the Errc.
func (p *peer) try(op string, command fields) (any, error) {
	p.t.Helper()
	line := fields{"op": op}
	for key, value := range command {
		line[key] = value
	}
	text := must[[]byte](p.t)(json.Marshal(line))
	if _, err := p.input.Write(append(text, '\n')); err != nil {
		p.t.Fatal(err)
	}
	select {
	case reply := <-p.replies:
		if name := reply.text("error"); name != "" {
			return nil, fmt.Errorf("%w: %s: %s", errPeer, name, reply.text("text"))
		}
		return reply["reply"], nil
	case <-time.After(patience):
		p.t.Fatalf("no reply from the C++ peer to %s", text)
		return nil, nil
	}
}

func (p *peer) do(op string, command fields) fields {
	p.t.Helper()
	reply, err := p.try(op, command)
	if err != nil {
		p.t.Fatal(err)
	}
	object, _ := reply.(map[string]any)
	return object
}

// refused checks that a command fails with the given Errc.
func (p *peer) refused(errc, op string, command fields) {
	p.t.Helper()
	_, err := p.try(op, command)
	if err == nil || len(err.Error()) < len("the C++ peer: ")+len(errc) || err.Error()[len("the C++ peer: "):][:len(errc)] != errc {
		p.t.Errorf("%s: got %v, want %s", op, err, errc)
	}
}

func (p *peer) list(queue, state string) []fields {
	p.t.Helper()
	reply, err := p.try("list", fields{"queue": queue, "state": state})
	if err != nil {
		p.t.Fatal(err)
	}
	var tasks []fields
	for _, task := range reply.([]any) {
		tasks = append(tasks, fields(task.(map[string]any)))
	}
	return tasks
}

// event waits for an event of a task.
func (p *peer) event(kind, id string) fields { return p.eventsOf(kind, id, 1)[0] }

// eventsOf waits for a number of events of a kind.
func (p *peer) eventsOf(kind, id string, count int) []fields {
	p.t.Helper()
	var found []fields
	eventually(p.t, fmt.Sprintf("%d events %q of task %q in C++", count, kind, id), func() bool {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		found = nil
		for _, event := range p.events {
			if event.text("event") == kind && event.text("id") == id {
				found = append(found, event)
			}
		}
		return len(found) >= count
	})
	return found
}

func (p *peer) saw(kind, id string) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, event := range p.events {
		if event.text("event") == kind && event.text("id") == id {
			return true
		}
	}
	return false
}

func (p *peer) pid() int { return p.process.Process.Pid }

// kill ends the process as a crash would.
func (p *peer) kill() { p.process.Process.Kill() }

// A seen task is what a Go handler saw in one attempt.
type seen struct {
	queue      string
	kind       string
	payload    string
	headers    map[string]string
	retryCount int
	maxRetry   int
	deadline   time.Time
}

// A goWorker is an asynq server with the same handlers as the C++ peer.
type goWorker struct {
	t      *testing.T
	server *asynq.Server
	mutex  sync.Mutex
	starts map[string][]seen
	ends   map[string]error
}

func goConfig(retryDelay time.Duration, queues map[string]int) asynq.Config {
	return asynq.Config{
		Concurrency: 2, Queues: queues, TaskCheckInterval: 50 * time.Millisecond, DelayedTaskCheckInterval: 200 * time.Millisecond,
		JanitorInterval: time.Second, ShutdownTimeout: 100 * time.Millisecond, LogLevel: asynq.ErrorLevel,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return retryDelay },
	}
}

func startGoWorker(t *testing.T, retryDelay time.Duration, queues map[string]int) *goWorker {
	t.Helper()
	w := &goWorker{t: t, starts: map[string][]seen{}, ends: map[string]error{}}
	w.server = asynq.NewServer(goOptions(), goConfig(retryDelay, queues))
	check(t, w.server.Start(asynq.HandlerFunc(w.handle)))
	t.Cleanup(w.stop)
	return w
}

func (w *goWorker) stop() {
	if w.server != nil {
		w.server.Shutdown()
		w.server = nil
	}
}

func (w *goWorker) handle(ctx context.Context, task *asynq.Task) error {
	id, _ := asynq.GetTaskID(ctx)
	attempt := seen{kind: task.Type(), payload: string(task.Payload()), headers: task.Headers()}
	attempt.queue, _ = asynq.GetQueueName(ctx)
	attempt.retryCount, _ = asynq.GetRetryCount(ctx)
	attempt.maxRetry, _ = asynq.GetMaxRetry(ctx)
	attempt.deadline, _ = ctx.Deadline()
	w.mutex.Lock()
	w.starts[id] = append(w.starts[id], attempt)
	w.mutex.Unlock()
	err := goHandle(ctx, task, id, attempt.retryCount)
	w.mutex.Lock()
	w.ends[id] = err
	w.mutex.Unlock()
	return err
}

func goHandle(ctx context.Context, task *asynq.Task, id string, retried int) error {
	switch task.Type() {
	case "ok":
		_, err := task.ResultWriter().Write([]byte("go did " + id))
		return err
	case "fail:once":
		if retried > 0 {
			return nil
		}
		return errors.New("failed on purpose")
	case "skip":
		return fmt.Errorf("skipped on purpose: %w", asynq.SkipRetry)
	case "throw":
		panic("thrown on purpose")
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	}
	return errors.New("failed on purpose")
}

func (w *goWorker) attempts(id string, count int) []seen {
	w.t.Helper()
	var found []seen
	eventually(w.t, fmt.Sprintf("%d attempts at task %q in Go", count, id), func() bool {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		found = append([]seen{}, w.starts[id]...)
		return len(found) >= count
	})
	return found
}

func (w *goWorker) started(id string) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return len(w.starts[id]) > 0
}

func (w *goWorker) end(id string) error {
	w.t.Helper()
	var ended bool
	var err error
	eventually(w.t, fmt.Sprintf("the end of task %q in Go", id), func() bool {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		err, ended = w.ends[id]
		return ended
	})
	return err
}

// goWorkerProcess works until it is killed.
func goWorkerProcess(socket string) {
	redisSocket = socket
	server := asynq.NewServer(goOptions(), goConfig(0, nil))
	if err := server.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		fmt.Println("started", id)
		<-ctx.Done()
		return ctx.Err()
	})); err != nil {
		log.Fatal(err)
	}
	select {}
}

// state is the state of a task in Go's inspector; empty if there is no such task.
func state(inspector *asynq.Inspector, queue, id string) string {
	info, err := inspector.GetTaskInfo(queue, id)
	if err != nil {
		return ""
	}
	return info.State.String()
}

func becomes(t *testing.T, inspector *asynq.Inspector, queue, id, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s/%s is %q (is %q)", queue, id, want, state(inspector, queue, id)),
		func() bool { return state(inspector, queue, id) == want })
}

// showsItsWorker waits until the only server reports its only running task.
func showsItsWorker(t *testing.T, inspector *asynq.Inspector) {
	t.Helper()
	eventually(t, "the heartbeat tells of the running task", func() bool {
		servers := must[[]*asynq.ServerInfo](t)(inspector.Servers())
		return len(servers) == 1 && len(servers[0].ActiveWorkers) == 1
	})
}
