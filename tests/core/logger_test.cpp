#include "taskmux/logger.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <latch>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/captured_stderr.hpp"
#include "support/eventually.hpp"
#include "support/run.hpp"
#include "support/test.hpp"

using namespace taskmux;

TEST_CASE("the default logger writes warnings and errors to standard error", "[logger]") {
  const Logger logger;
  CHECK_FALSE(logger.is_chosen());
  test::CapturedStderr captured;
  logger(LogLevel::debug, "d");
  logger(LogLevel::info, "i");
  logger({.level = LogLevel::warning,
          .text = "archived:\nboom",
          .task_id = "42",
          .task_type = "email:welcome",
          .queue = "default"});
  logger(LogLevel::error, "e");
  const std::string text = captured.text();
  // Such as 2026-01-01T00:00:00.000Z, twice.
  const std::string first =
      " warning taskmux: task 42 (\"email:welcome\", queue \"default\"): archived: boom\n";
  REQUIRE(text.size() == 2 * 24 + first.size() + std::string{" error taskmux: e\n"}.size());
  CHECK(text.substr(24, first.size()) == first);
  CHECK(text.substr(10, 1) == "T");
  CHECK(text.substr(23, 1) == "Z");
  CHECK(text.substr(24 + first.size() + 24) == " error taskmux: e\n");
}

TEST_CASE("a logger can be silent, or write more to standard error", "[logger]") {
  test::CapturedStderr captured;
  const Logger none = Logger::none();
  CHECK(none.is_chosen());
  CHECK_FALSE(none.enabled(LogLevel::error));
  none(LogLevel::error, "e");
  CHECK_FALSE(Logger{LogLevel::debug, Logger::Sink{}}.enabled(LogLevel::error));
  CHECK_FALSE(Logger{LogLevel::debug, {}}.enabled(LogLevel::error));
  CHECK_FALSE(Logger{LogLevel::debug, nullptr}.enabled(LogLevel::error));
  CHECK(captured.text().empty());
  const Logger all = Logger::to_stderr(LogLevel::debug);
  CHECK(all.is_chosen());
  all(LogLevel::debug, "d");
  CHECK(captured.text().find(" debug taskmux: d\n") != std::string::npos);
}

TEST_CASE("a line sink receives one line, and a record sink the fields", "[logger]") {
  std::vector<std::string> lines;
  const Logger of_lines{LogLevel::info,
                        [&](LogLevel, std::string_view line) { lines.emplace_back(line); }};
  of_lines({.text = "a\nb", .server = "s"});
  of_lines({.text = "t", .task_id = "1"});
  of_lines({.text = "t", .task_id = "1", .queue = "q"});
  of_lines({.text = "t", .queue = "q"});
  of_lines({.level = LogLevel::debug, .text = "no"});
  CHECK(lines == std::vector<std::string>{"server s: a b", "task 1: t", "task 1 (queue \"q\"): t",
                                          "queue \"q\": t"});
  std::string seen;
  const Logger of_records{LogLevel::info,
                          [&](const LogRecord& record) { seen = std::string{record.text}; }};
  of_records({.text = "a\nb", .task_id = "1"});
  CHECK(seen == "a\nb");
  const Logger throws{LogLevel::info, [](const LogRecord&) { throw std::runtime_error{"sink"}; }};
  throws(LogLevel::error, "swallowed");
}

TEST_CASE("writing to a standard error without a reader raises no signal", "[logger]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::close(ends[0]);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(ends[1], STDERR_FILENO);
  Logger{}(LogLevel::error, "into a closed pipe");  // SIGPIPE would end this process.
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  ::close(ends[1]);
  sigset_t pending;
  sigpending(&pending);
  CHECK(sigismember(&pending, SIGPIPE) == 0);
}

TEST_CASE("a standard error that is not read blocks nobody", "[logger]") {
  const bool is_socket = GENERATE(false, true);
  CAPTURE(is_socket);
  {
    const test::CapturedStderr captured;  // Gets the report of lines dropped before.
    Logger{}(LogLevel::error, "0");
  }
  int ends[2];
  REQUIRE((is_socket ? ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : ::pipe(ends)) == 0);
  const int flags = ::fcntl(ends[1], F_GETFL);
  const int reader_flags = ::fcntl(ends[0], F_GETFL);
  ::fcntl(ends[1], F_SETFL, flags | O_NONBLOCK);
  const std::string block(4096, 'x');
  while (::write(ends[1], block.data(), block.size()) > 0) {
  }
  ::fcntl(ends[1], F_SETFL, flags);
  ::fcntl(ends[0], F_SETFL, reader_flags | O_NONBLOCK);
  const auto drain = [&] {
    std::string text;
    char buffer[4096];
    for (ssize_t got = 0; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(got));
    return text;
  };
  const int before = ::dup(STDERR_FILENO);
  ::dup2(ends[1], STDERR_FILENO);
  const std::uint64_t dropped = Logger::dropped_lines();
  std::atomic<bool> done{false};
  std::thread writer{[&] {
    Logger{}(LogLevel::error, "1");
    Logger{}(LogLevel::error, std::string(100'000, '2'));
    done = true;
  }};
  const bool in_time = test::eventually([&] { return done.load(); });
  const std::uint64_t dropped_then = Logger::dropped_lines();
  while (!done) drain();
  writer.join();
  drain();
  Logger{}(LogLevel::error, "3");
  const std::string text = drain();
  const int flags_after = ::fcntl(STDERR_FILENO, F_GETFL);
  ::dup2(before, STDERR_FILENO);
  for (const int end : {before, ends[0], ends[1]}) ::close(end);
  CHECK(in_time);
  CHECK(dropped_then - dropped == 2);
  CHECK(flags_after == flags);
  CHECK(
      text.find(" warning taskmux: 2 log lines were dropped before this, since standard error took "
                "no more\n") == 24);
  CHECK(text.ends_with(" error taskmux: 3\n"));
}

TEST_CASE("a slow sink does not delay other threads' log lines", "[logger]") {
  std::latch both{2};  // Each writer waits in the sink for the other.
  detail::LogGate gate{Logger{LogLevel::info, [&](const LogRecord&) { both.arrive_and_wait(); }}};
  std::thread other{[&] { gate.log({.text = "1"}); }};
  gate.log({.text = "2"});
  other.join();
  gate.close();
  gate.log({.text = "3"});  // Dropped.
}

TEST_CASE("a closing gate waits for the line that is being written", "[logger]") {
  std::latch writing{1};
  std::latch go{1};
  bool written = false;
  detail::LogGate gate{Logger{LogLevel::info, [&](const LogRecord&) {
                                writing.count_down();
                                go.wait();
                                written = true;
                              }}};
  std::thread writer{[&] { gate.log({.text = "1"}); }};
  writing.wait();
  go.count_down();
  gate.close();
  CHECK(written);
  writer.join();
}
