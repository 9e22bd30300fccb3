/// The C++ side of the interop suite: executes commands, one JSON object per line.
///
///     taskmux_interop_peer <URL of Redis>
///
/// A command is `{"op": ..., ...}` on standard input; its reply is `{"reply": ...}` or `{"error":
/// <Errc>, "text": ...}` on standard output. A started server reports what its handlers
/// see, between the replies, as `{"event": ...}`. Payloads and results are in hexadecimal. Ends, and
/// shuts its server down, at the end of the input.

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <taskmux/inspector.hpp>
#include <taskmux/redis/redis_broker.hpp>
#include <taskmux/taskmux.hpp>

namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;

void print(const Json& line) {
  static std::mutex mutex;
  const std::lock_guard lock{mutex};
  std::cout << line.dump() << std::endl;
}

std::string to_hex(std::string_view bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += digits[byte >> 4];
    out += digits[byte & 15];
  }
  return out;
}

std::string from_hex(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    out += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return out;
}

std::int64_t micros(taskmux::Time time) { return time.time_since_epoch().count(); }

taskmux::Time time_of(const Json& value) {
  return taskmux::Time{std::chrono::microseconds{value.get<std::int64_t>()}};
}

taskmux::Duration millis(const Json& value) {
  return std::chrono::milliseconds{value.get<std::int64_t>()};
}

taskmux::NewTask new_task(const Json& command) {
  taskmux::NewTask item;
  item.task.type = command.at("type");
  item.task.payload = from_hex(command.value("payload", ""));
  if (command.contains("headers")) {
    for (const auto& [key, value] : command["headers"].items()) item.task.headers[key] = value;
  }
  taskmux::EnqueueOptions& options = item.options;
  if (command.contains("queue")) options.queue = command["queue"];
  if (command.contains("id")) options.task_id = command["id"];
  if (command.contains("max_retry")) options.max_retry = command["max_retry"];
  if (command.contains("timeout_ms")) options.timeout = millis(command["timeout_ms"]);
  if (command.contains("deadline_us")) options.deadline = time_of(command["deadline_us"]);
  if (command.contains("process_at_us")) options.process_at = time_of(command["process_at_us"]);
  if (command.contains("process_in_ms")) options.process_in = millis(command["process_in_ms"]);
  if (command.contains("unique_ms")) options.unique_for = millis(command["unique_ms"]);
  if (command.contains("retention_ms")) options.retention = millis(command["retention_ms"]);
  options.unique_empty_payload = command.value("unique_empty_payload", false);
  return item;
}

Json shown(const taskmux::TaskInfo& info) {
  return {{"id", info.id},
          {"queue", info.queue},
          {"type", info.task.type},
          {"payload", to_hex(info.task.payload)},
          {"headers", info.task.headers},
          {"state", to_string(info.state)},
          {"max_retry", info.max_retry},
          {"retried", info.retried},
          {"timeout_s", info.timeout.count()},
          {"retention_s", info.retention.count()},
          {"deadline_us", info.deadline ? micros(*info.deadline) : 0},
          {"next_process_at_us", info.next_process_at ? micros(*info.next_process_at) : 0},
          {"completed_at_us", info.completed_at ? micros(*info.completed_at) : 0},
          {"last_error", info.last_error},
          {"result", to_hex(info.result)},
          {"orphaned", info.orphaned}};
}

taskmux::TaskState state_of(const std::string& name) {
  using enum taskmux::TaskState;
  for (const auto state : {pending, active, scheduled, retry, archived, completed, aggregating}) {
    if (to_string(state) == name) return state;
  }
  throw std::invalid_argument{"no such state: " + name};
}

taskmux::CancelMode mode_of(const std::string& name) {
  if (name == "archive") return taskmux::CancelMode::archive;
  if (name == "remove") return taskmux::CancelMode::remove;
  return taskmux::CancelMode::retry;
}

/// The handlers, by type; each first reports what it sees.
taskmux::Outcome handle(taskmux::Context& context, const taskmux::Task& task) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  print({{"event", "started"},
         {"at_us", std::chrono::duration_cast<std::chrono::microseconds>(now).count()},
         {"id", context.task_id()},
         {"queue", context.queue()},
         {"type", task.type},
         {"payload", to_hex(task.payload)},
         {"headers", task.headers},
         {"retry_count", context.retry_count()},
         {"max_retry", context.max_retry()},
         {"deadline_us", micros(context.deadline())}});
  if (task.type == "ok") {
    context.set_result("cpp did " + std::string{context.task_id()});
    return taskmux::Outcome::success();
  }
  if (task.type == "fail:once" && context.retry_count() > 0) return taskmux::Outcome::success();
  if (task.type == "fail" || task.type == "fail:once")
    return taskmux::Outcome::fail("failed on purpose");
  if (task.type == "skip") return taskmux::Outcome::skip_retry("skipped on purpose");
  if (task.type == "throw") throw std::runtime_error{"thrown on purpose"};
  if (task.type == "hang") {
    context.wait_for(10min);
    print({{"event", "stopping"},
           {"id", context.task_id()},
           {"reason", to_string(context.stop_reason())}});
    return taskmux::Outcome::fail("stopped");
  }
  return taskmux::Outcome::fail("no handler");
}

class Peer {
 public:
  explicit Peer(const char* url) : broker_{options(url)}, client_{broker_}, inspector_{broker_} {}

  Json obey(const Json& command) {
    const std::string op = command.at("op");
    if (op == "enqueue") return enqueue(command);
    if (op == "start") return start(command);
    if (op == "stop") return server_.reset(), Json{};
    return inspect(op, command);
  }

 private:
  static taskmux::RedisOptions options(const char* url) {
    taskmux::RedisOptions options = taskmux::parse_redis_url(url);
    options.logger = logger();
    return options;
  }

  static taskmux::Logger logger() {
    return {taskmux::LogLevel::warning, [](taskmux::LogLevel level, std::string_view text) {
              std::fprintf(stderr, "peer: %s: %.*s\n", to_string(level).data(),
                           static_cast<int>(text.size()), text.data());
            }};
  }

  Json enqueue(const Json& command) {
    taskmux::NewTask item = new_task(command);
    const auto result = client_.enqueue(std::move(item.task), std::move(item.options));
    return {{"id", result.id}, {"queue", result.queue}, {"state", to_string(result.state)}};
  }

  Json start(const Json& command) {
    taskmux::ServerConfig config;
    config.concurrency = command.value("concurrency", 2u);
    if (command.contains("queues"))
      config.queues = command["queues"].get<std::map<std::string, int>>();
    config.strict_priority = command.value("strict", false);
    config.retry_policy = taskmux::FixedDelay{millis(command.value("retry_delay_ms", Json(0)))};
    config.upkeep_interval = 200ms;
    config.shutdown_timeout = 100ms;
    config.logger = logger();
    config.hooks.on_state_change = [](const taskmux::TaskEvent& event) {
      if (event.change == taskmux::TaskEvent::Change::started) return;
      print({{"event", to_string(event.change)}, {"id", event.task->id}, {"error", event.error}});
    };
    taskmux::ServeMux mux;
    mux.not_found(handle);
    server_ = std::make_unique<taskmux::Server>(broker_, std::move(mux), std::move(config));
    server_->start();
    return {{"server_id", server_->id()}};
  }

  Json inspect(const std::string& op, const Json& command) {
    const std::string queue = command.value("queue", "default");
    const std::string id = command.value("id", "");
    if (op == "get") {
      const auto info = inspector_.find(queue, id);
      return info ? shown(*info) : Json{};
    }
    if (op == "list") {
      Json tasks = Json::array();
      taskmux::ListRequest request{.queue = queue, .state = state_of(command.at("state"))};
      if (request.state != taskmux::TaskState::aggregating) {
        for (const auto& info : inspector_.list(request).tasks) tasks.push_back(shown(info));
        return tasks;
      }
      for (const auto& group : inspector_.groups(queue)) {
        request.group = group.group;
        for (const auto& info : inspector_.list(request).tasks) tasks.push_back(shown(info));
      }
      return tasks;
    }
    if (op == "queues") return inspector_.queues();
    if (op == "servers") return servers();
    if (op == "queue") return queue_info(queue);
    if (op == "run") return inspector_.run(queue, id), Json{};
    if (op == "archive") return inspector_.archive(queue, id), Json{};
    if (op == "remove") return inspector_.remove(queue, id), Json{};
    if (op == "pause") return inspector_.pause(queue), Json{};
    if (op == "unpause") return inspector_.unpause(queue), Json{};
    if (op == "cancel")
      return inspector_.cancel(queue, id, mode_of(command.value("mode", "retry"))), Json{};
    throw std::invalid_argument{"no such op: " + op};
  }

  Json queue_info(const std::string& queue) {
    const taskmux::QueueInfo info = inspector_.queue_info(queue);
    return {{"paused", info.paused},
            {"pending", info.pending},
            {"active", info.active},
            {"scheduled", info.scheduled},
            {"retry", info.retry},
            {"archived", info.archived},
            {"completed", info.completed},
            {"processed_total", info.processed_total},
            {"failed_total", info.failed_total}};
  }

  Json servers() {
    Json all = Json::array();
    for (const auto& server : inspector_.servers()) {
      Json workers = Json::array();
      for (const auto& worker : server.workers)
        workers.push_back(
            {{"task_id", worker.task_id}, {"queue", worker.queue}, {"type", worker.task.type}});
      all.push_back({{"host", server.host},
                     {"pid", server.pid},
                     {"id", server.id},
                     {"concurrency", server.concurrency},
                     {"queues", server.queues},
                     {"status", to_string(server.status)},
                     {"workers", workers}});
    }
    return all;
  }

  taskmux::RedisBroker broker_;
  taskmux::Client client_;
  taskmux::Inspector inspector_;
  std::unique_ptr<taskmux::Server> server_;
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw std::invalid_argument{"usage: taskmux_interop_peer <URL of Redis>"};
  Peer peer{argv[1]};
  std::string line;
  while (std::getline(std::cin, line)) {
    try {
      print({{"reply", peer.obey(Json::parse(line))}});
    } catch (const taskmux::Error& error) {
      print({{"error", to_string(error.errc())}, {"text", error.what()}});
    } catch (const std::exception& error) {
      print({{"error", "misuse"}, {"text", error.what()}});
    }
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "taskmux_interop_peer: %s\n", error.what());
  return 1;
}
