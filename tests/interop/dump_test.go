package interop

import (
	"context"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"google.golang.org/protobuf/encoding/protowire"
)

// A teller performs the same story with the means of one side.
type teller interface {
	enqueue(command fields)
	start()
	act(action, queue, id string)
	stop()
}

// TestTheSameStoryLeavesTheSameKeys performs a story once with Go and once with C++ and compares the contents of Redis
// afterwards: names and types of keys, members, every field of hashes and of messages, TTLs. These may differ: names
// with "tmx", which are taskmux's own; times, by the time between the two runs, except those that the story fixes; a
// lease, which is 30 s in Go and 10 s in C++; ids, process ids and the status text of servers; and the time since when
// a task is pending that an inspector made pending, which Go leaves out, so that its latency is shown as 0.
func TestTheSameStoryLeavesTheSameKeys(t *testing.T) {
	due := time.Now().Add(time.Hour).Truncate(time.Second)
	client, inspector := fresh(t)
	goSide := tell(t, inspector, &goTeller{t: t, client: client, inspector: inspector}, due)
	client, inspector = fresh(t)
	cppSide := tell(t, inspector, &cppTeller{newPeer(t)}, due)

	delete(cppSide, "asynq:{waiting}:t:to run pending_since")
	private := 0
	for path := range cppSide {
		if strings.Contains(path, "tmx") {
			delete(cppSide, path)
			private++
		}
	}
	if private == 0 {
		t.Error("no private name was seen: is the dump right?")
	}
	if len(goSide) < 100 {
		t.Errorf("only %d values were compared: is the dump right?", len(goSide))
	}
	for _, path := range paths(goSide, cppSide) {
		ours, there := cppSide[path]
		theirs, inGo := goSide[path]
		if !there || !inGo {
			t.Errorf("%s: Go has %v, C++ has %v", path, theirs, ours)
		} else if !theirs.alike(ours) {
			t.Errorf("%s: Go has %v, C++ has %v", path, theirs, ours)
		}
	}
	t.Logf("%d values compared, %d private ones left out", len(goSide), private)
}

func tell(t *testing.T, inspector *asynq.Inspector, side teller, due time.Time) map[string]value {
	begun := time.Now()
	hour := int64(time.Hour / time.Millisecond)
	for _, command := range []fields{
		{"id": "plain", "payload": "7b7d", "headers": map[string]string{"k": "v", "e": ""}, "max_retry": 3, "timeout_ms": 60000},
		{"id": "defaults"},
		{"id": "deadline", "deadline_us": due.UnixMicro(), "max_retry": 0},
		{"id": "both", "deadline_us": due.UnixMicro(), "timeout_ms": 1000, "retention_ms": hour},
		{"id": "unique", "payload": "00ff", "unique_ms": hour},
		{"id": "unique none", "unique_ms": hour},
		{"id": "scheduled", "process_at_us": due.UnixMicro()},
		{"id": "scheduled unique", "payload": "01", "process_at_us": due.UnixMicro(), "unique_ms": hour},
		{"id": "to archive", "process_at_us": due.UnixMicro()},
		{"id": "to run", "process_at_us": due.UnixMicro()},
		{"id": "to remove", "payload": "02", "unique_ms": hour},
	} {
		command["type"], command["queue"] = "ok", "waiting"
		side.enqueue(command)
	}
	side.act("archive", "waiting", "to archive")
	side.act("run", "waiting", "to run")
	side.act("remove", "waiting", "to remove")
	side.act("pause", "waiting", "")

	for id, command := range map[string]fields{
		"done":      {"type": "ok", "payload": "03", "unique_ms": hour},
		"completed": {"type": "ok", "retention_ms": hour, "headers": map[string]string{"k": "v"}},
		"failed":    {"type": "fail", "headers": map[string]string{"k": "v"}, "payload": "04", "unique_ms": hour},
		"spent":     {"type": "fail", "max_retry": 0},
		"twice":     {"type": "fail:once", "retention_ms": hour},
		"again":     {"type": "fail"},
		"running":   {"type": "hang", "payload": "05", "timeout_ms": hour},
	} {
		command["id"] = id
		side.enqueue(command)
	}
	side.start()
	for _, id := range []string{"failed", "twice", "again"} {
		becomes(t, inspector, "default", id, "retry")
	}
	side.act("run", "default", "twice")
	side.act("archive", "default", "again")
	for id, want := range map[string]string{"done": "", "completed": "completed", "twice": "completed", "spent": "archived", "running": "active"} {
		becomes(t, inspector, "default", id, want)
	}
	showsItsWorker(t, inspector)
	found := dump(t, begun)
	side.stop()
	return found
}

type goTeller struct {
	t         *testing.T
	client    *asynq.Client
	inspector *asynq.Inspector
	worker    *goWorker
}

func (g *goTeller) enqueue(command fields) {
	number := func(key string) (int64, bool) {
		switch value := command[key].(type) {
		case int64:
			return value, true
		case int:
			return int64(value), true
		}
		return 0, false
	}
	duration := func(key string) (time.Duration, bool) {
		value, given := number(key)
		return time.Duration(value) * time.Millisecond, given
	}
	options := []asynq.Option{asynq.TaskID(command.text("id"))}
	if queue := command.text("queue"); queue != "" {
		options = append(options, asynq.Queue(queue))
	}
	if value, given := number("max_retry"); given {
		options = append(options, asynq.MaxRetry(int(value)))
	}
	if value, given := number("deadline_us"); given {
		options = append(options, asynq.Deadline(time.UnixMicro(value)))
	}
	if value, given := number("process_at_us"); given {
		options = append(options, asynq.ProcessAt(time.UnixMicro(value)))
	}
	if value, given := duration("timeout_ms"); given {
		options = append(options, asynq.Timeout(value))
	}
	if value, given := duration("retention_ms"); given {
		options = append(options, asynq.Retention(value))
	}
	if value, given := duration("unique_ms"); given {
		options = append(options, asynq.Unique(value))
	}
	var payload []byte
	if command["payload"] != nil {
		payload = []byte(command.bytes("payload"))
	}
	headers, _ := command["headers"].(map[string]string)
	must[*asynq.TaskInfo](g.t)(g.client.Enqueue(asynq.NewTaskWithHeaders(command.text("type"), payload, headers), options...))
}

func (g *goTeller) start() {
	g.worker = startGoWorker(g.t, time.Hour, map[string]int{"default": 2, "waiting": 1})
}
func (g *goTeller) stop() { g.worker.stop() }

func (g *goTeller) act(action, queue, id string) {
	g.t.Helper()
	switch action {
	case "run":
		check(g.t, g.inspector.RunTask(queue, id))
	case "archive":
		check(g.t, g.inspector.ArchiveTask(queue, id))
	case "remove":
		check(g.t, g.inspector.DeleteTask(queue, id))
	case "pause":
		check(g.t, g.inspector.PauseQueue(queue))
	}
}

type cppTeller struct{ *peer }

func (c *cppTeller) enqueue(command fields) { c.do("enqueue", command) }
func (c *cppTeller) stop()                  { c.do("stop", nil) }

func (c *cppTeller) start() {
	c.do("start", fields{"retry_delay_ms": int64(time.Hour / time.Millisecond), "queues": map[string]int{"default": 2, "waiting": 1}})
}

func (c *cppTeller) act(action, queue, id string) { c.do(action, fields{"queue": queue, "id": id}) }

// A value in Redis: a text, or a time or a TTL in seconds, which may differ by `leeway`.
type value struct {
	text    string
	seconds float64
	leeway  float64
}

func (v value) alike(other value) bool {
	return v.text == other.text && v.leeway == other.leeway && math.Abs(v.seconds-other.seconds) <= v.leeway
}

func (v value) String() string {
	if v.text != "" || v.leeway == 0 && v.seconds == 0 {
		return strconv.Quote(v.text)
	}
	return fmt.Sprintf("%.3f s", v.seconds)
}

const (
	apart      = 20 // Seconds that may lie between the same steps of two tellings.
	leaseApart = apart + 20
)

// dump is the contents of Redis: a value for each key, member, field and field of a message, by its path. Times are
// relative to `begun`, except those of scheduled tasks and deadlines, which are absolute.
func dump(t *testing.T, begun time.Time) map[string]value {
	ctx := context.Background()
	found := map[string]value{}
	for _, key := range must[[]string](t)(redisClient.Keys(ctx, "*").Result()) {
		name := key
		if at := strings.Index(key, "asynq:servers:{"); at == 0 {
			name = "asynq:servers:{*}"
		} else if at := strings.Index(key, "asynq:workers:{"); at == 0 {
			name = "asynq:workers:{*}"
		}
		kind := must[string](t)(redisClient.Type(ctx, key).Result())
		found[name] = value{text: kind}
		if ttl := must[time.Duration](t)(redisClient.TTL(ctx, key).Result()); ttl > 0 {
			found[name+" TTL"] = value{seconds: ttl.Seconds(), leeway: apart}
		}
		switch kind {
		case "string":
			found[name+" ="] = stringValue(name, must[string](t)(redisClient.Get(ctx, key).Result()), begun)
			if name == "asynq:servers:{*}" {
				addMessage(t, found, name, redisClient.Get(ctx, key).Val(), begun, serverFields)
				delete(found, name+" =")
			}
		case "set":
			for _, member := range redisClient.SMembers(ctx, key).Val() {
				found[name+" has "+member] = value{}
			}
		case "list":
			found[name+" ="] = value{text: strings.Join(redisClient.LRange(ctx, key, 0, -1).Val(), ", ")}
			if strings.HasPrefix(name, "asynq:{default}") {
				delete(found, name+" =")
				for _, id := range redisClient.LRange(ctx, key, 0, -1).Val() {
					found[name+" has "+id] = value{}
				}
			}
		case "zset":
			for _, entry := range redisClient.ZRangeWithScores(ctx, key, 0, -1).Val() {
				member := strings.SplitN(fmt.Sprint(entry.Member), ":{", 2)[0]
				if entry.Score != math.Trunc(entry.Score) && !strings.Contains(name, "tmx") {
					t.Errorf("%s: the score of %s is not whole: %v", name, member, entry.Score)
				}
				score := value{seconds: entry.Score - float64(begun.Unix()), leeway: apart}
				if strings.HasSuffix(name, ":scheduled") {
					score = value{text: fmt.Sprint(entry.Score)}
				} else if strings.HasSuffix(name, ":lease") {
					score.leeway = leaseApart
				}
				found[name+" has "+member] = score
			}
		case "hash":
			for field, text := range redisClient.HGetAll(ctx, key).Val() {
				path := name + " " + field
				switch {
				case name == "asynq:workers:{*}":
					addMessage(t, found, path, text, begun, workerFields)
				case field == "msg":
					addMessage(t, found, path, text, begun, taskFields)
				case field == "pending_since":
					nanos := must[int64](t)(strconv.ParseInt(text, 10, 64))
					found[path] = value{seconds: float64(nanos)/1e9 - float64(begun.Unix()), leeway: apart}
				case field == "result":
					found[path] = value{text: strings.TrimPrefix(strings.TrimPrefix(text, "go "), "cpp ")}
				default:
					found[path] = value{text: text}
				}
			}
		default:
			t.Errorf("%s is a %s", key, kind)
		}
	}
	return found
}

func stringValue(name, text string, begun time.Time) value {
	if strings.HasSuffix(name, ":paused") {
		seconds, _ := strconv.ParseInt(text, 10, 64)
		return value{seconds: float64(seconds - begun.Unix()), leeway: apart}
	}
	return value{text: text}
}

type fieldKind int

const (
	plain fieldKind = iota
	unixTime
	timestamp
	own // Differs from process to process.
	mapEntry
)

var (
	taskFields   = map[protowire.Number]fieldKind{11: unixTime, 13: unixTime, 15: mapEntry}
	serverFields = map[protowire.Number]fieldKind{2: own, 3: own, 5: mapEntry, 7: own, 8: timestamp}
	workerFields = map[protowire.Number]fieldKind{2: own, 3: own, 8: timestamp, 9: timestamp}
)

// addMessage adds each field of a protobuf message, by its number. Fields must be in ascending order.
func addMessage(t *testing.T, found map[string]value, path, text string, begun time.Time, kinds map[protowire.Number]fieldKind) {
	last := protowire.Number(0)
	for rest := []byte(text); len(rest) > 0; {
		number, wire, length := protowire.ConsumeTag(rest)
		if length < 0 || number < last {
			t.Errorf("%s: field %d after field %d", path, number, last)
			return
		}
		last, rest = number, rest[length:]
		at := fmt.Sprintf("%s #%d", path, number)
		switch wire {
		case protowire.VarintType:
			varint, length := protowire.ConsumeVarint(rest)
			rest = rest[length:]
			found[at] = value{text: fmt.Sprint(int64(varint))}
			if kinds[number] == unixTime {
				found[at] = value{seconds: float64(int64(varint) - begun.Unix()), leeway: apart}
			}
		case protowire.BytesType:
			bytes, length := protowire.ConsumeBytes(rest)
			rest = rest[length:]
			switch kinds[number] {
			case mapEntry:
				found[at+" has "+strconv.Quote(string(bytes))] = value{}
				continue
			case timestamp:
				_, _, tag := protowire.ConsumeTag(bytes)
				seconds, _ := protowire.ConsumeVarint(bytes[max(tag, 0):])
				found[at] = value{seconds: float64(int64(seconds) - begun.Unix()), leeway: apart}
			default:
				found[at] = value{text: string(bytes)}
			}
		default:
			t.Errorf("%s: wire type %d", at, wire)
			return
		}
		if kinds[number] == own {
			found[at] = value{text: "*"}
		}
	}
}

func paths(dumps ...map[string]value) []string {
	all := map[string]bool{}
	for _, found := range dumps {
		for path := range found {
			all[path] = true
		}
	}
	var sorted []string
	for path := range all {
		sorted = append(sorted, path)
	}
	sort.Strings(sorted)
	return sorted
}
