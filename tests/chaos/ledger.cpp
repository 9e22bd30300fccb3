#include "ledger.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace taskmux::chaos {
namespace {

constexpr std::string_view extension = ".ledger";

constexpr std::array kinds{EventKind::ask,     EventKind::accepted, EventKind::refused,
                           EventKind::unknown, EventKind::start,    EventKind::good,
                           EventKind::bad,     EventKind::later,    EventKind::stopped,
                           EventKind::settled, EventKind::fault,    EventKind::gone};

EventKind kind_of(const std::string& name) {
  for (const EventKind kind : kinds) {
    if (to_string(kind) == name) return kind;
  }
  throw std::runtime_error{"ledger: no such kind of event: " + name};
}

Event parse(const std::string& line, const std::string& process) {
  std::istringstream words{line};
  std::int64_t at = 0;
  std::string kind;
  Event event{.process = process};
  if (!(words >> at >> kind >> event.id >> event.number))
    throw std::runtime_error{"ledger of " + process + ": broken line: " + line};
  event.at = Moment{at};
  event.kind = kind_of(kind);
  words.get();
  std::getline(words, event.detail);
  return event;
}

}  // namespace

Moment now() {
  return std::chrono::duration_cast<Moment>(std::chrono::steady_clock::now().time_since_epoch());
}

std::string_view to_string(EventKind kind) noexcept {
  switch (kind) {
    case EventKind::ask: return "ask";
    case EventKind::accepted: return "accepted";
    case EventKind::refused: return "refused";
    case EventKind::unknown: return "unknown";
    case EventKind::start: return "start";
    case EventKind::good: return "good";
    case EventKind::bad: return "bad";
    case EventKind::later: return "later";
    case EventKind::stopped: return "stopped";
    case EventKind::settled: return "settled";
    case EventKind::fault: return "fault";
    case EventKind::gone: return "gone";
  }
  return "?";
}

LedgerWriter::LedgerWriter(const std::filesystem::path& directory, const std::string& process) {
  const auto path = directory / (process + std::string{extension});
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file_ < 0) throw std::system_error{errno, std::generic_category(), path.string()};
}

LedgerWriter::~LedgerWriter() { close(file_); }

void LedgerWriter::write(EventKind kind, std::string_view id, std::int64_t number,
                         std::string_view detail) {
  write_at(now(), kind, id, number, detail);
}

void LedgerWriter::write_at(Moment at, EventKind kind, std::string_view id, std::int64_t number,
                            std::string_view detail) {
  std::string line = std::to_string(at.count());
  line.append(" ").append(to_string(kind)).append(" ").append(id).append(" ");
  line.append(std::to_string(number)).append(" ").append(detail).append("\n");
  const auto written = ::write(file_, line.data(), line.size());
  if (written == static_cast<ssize_t>(line.size())) return;
  std::perror("ledger");
  std::_Exit(3);
}

std::vector<Event> read_ledger(const std::filesystem::path& directory) {
  std::vector<Event> events;
  for (const auto& entry : std::filesystem::directory_iterator{directory}) {
    if (entry.path().extension() != extension) continue;
    std::ifstream file{entry.path()};
    const std::string process = entry.path().stem().string();
    for (std::string line; std::getline(file, line);) events.push_back(parse(line, process));
  }
  std::ranges::stable_sort(events, {}, &Event::at);
  return events;
}

}  // namespace taskmux::chaos
