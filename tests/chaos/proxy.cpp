#include "proxy.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "ledger.hpp"
#include "work.hpp"

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

int open_socket() {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) throw std::system_error{errno, std::generic_category(), "socket"};
  return fd;
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw std::system_error{ENAMETOOLONG, std::generic_category(), path};
  path.copy(address.sun_path, path.size());
  return address;
}

/// Bytes in transit in one direction.
class Pipe {
 public:
  Pipe(int from, int to) : from_{from}, to_{to} {}

  /// Reads available data, unless much is in transit; returns false at the end of the stream.
  bool read(Moment arrives) {
    if (size_ >= most) return true;
    std::array<char, 65536> buffer;
    const auto count = recv(from_, buffer.data(), buffer.size(), 0);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    if (count == 0) return false;
    size_ += static_cast<std::size_t>(count);
    chunks_.push_back({arrives, {buffer.data(), static_cast<std::size_t>(count)}});
    return true;
  }

  bool wants_to_read() const { return size_ < most; }
  /// Returns when the next bytes are due; SteadyTime::max() if there are none.
  Moment due() const {
    return chunks_.empty() ? Moment::max() : std::max(chunks_.front().arrives, free_at_);
  }
  bool has_due() const { return due() <= now(); }
  std::size_t front() const { return chunks_.front().bytes.size(); }

  /// Forwards up to `limit` bytes of the first chunk, at `rate` bytes a second (0: no limit);
  /// returns false if the peer has closed the connection.
  bool write(std::size_t limit, std::size_t rate) {
    Chunk& chunk = chunks_.front();
    std::size_t count = std::min(limit, chunk.bytes.size());
    if (rate > 0) count = std::min(count, std::max<std::size_t>(rate / 100, 1));
    const auto sent = send(to_, chunk.bytes.data(), count, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    const auto written = static_cast<std::size_t>(sent);
    size_ -= written;
    chunk.bytes.erase(0, written);
    if (chunk.bytes.empty()) chunks_.pop_front();
    if (rate > 0) free_at_ = now() + Moment{static_cast<std::int64_t>(written * 1'000'000 / rate)};
    return true;
  }

  int from() const { return from_; }
  int to() const { return to_; }

 private:
  static constexpr std::size_t most = 1 << 20;
  struct Chunk {
    Moment arrives{};
    std::string bytes{};
  };

  int from_;
  int to_;
  std::size_t size_ = 0;
  std::deque<Chunk> chunks_;
  Moment free_at_{};
};

}  // namespace

/// One connection of a client, and the corresponding connection to the server.
class Proxy::Line {
 public:
  Line(int client, int server) : requests_{client, server}, replies_{server, client} {}
  ~Line() {
    close(requests_.from());
    close(requests_.to());
  }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  Pipe& requests() { return requests_; }
  Pipe& replies() { return replies_; }

 private:
  Pipe requests_;
  Pipe replies_;
};

Proxy::Proxy(const std::filesystem::path& path, std::string server)
    : path_{path.string()}, server_{std::move(server)}, listener_{open_socket()} {
  const sockaddr_un address = address_of(path_);
  unlink(path_.c_str());
  if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_, 128) != 0)
    throw std::system_error{errno, std::generic_category(), path_};
  thread_ = std::thread{[this] { serve(); }};
}

Proxy::~Proxy() {
  over_ = true;
  thread_.join();
  close(listener_);
}

void Proxy::cut_replies(std::uint64_t seed) { cut_seed_ = seed | 1; }
void Proxy::delay(std::chrono::milliseconds time) { delay_ms_ = time.count(); }
void Proxy::limit(std::size_t bytes_per_second) { rate_ = bytes_per_second; }

void Proxy::calm() {
  cut_seed_ = 0;
  delay_ms_ = 0;
  rate_ = 0;
}

void Proxy::serve() {
  std::vector<std::unique_ptr<Line>> lines;
  Dice dice{0};
  std::uint64_t seed = 0;
  std::vector<pollfd> polled;
  while (!over_) {
    polled.assign(1, {listener_, POLLIN, 0});
    Moment due = now() + 20ms;
    for (const auto& line : lines) {
      for (Pipe* pipe : {&line->requests(), &line->replies()}) {
        due = std::min(due, pipe->due());
        const bool reads = pipe->wants_to_read();
        polled.push_back({pipe->from(), static_cast<short>(reads ? POLLIN : 0), 0});
      }
    }
    const auto wait = std::max(due - now(), Moment{0});
    const timespec limit{0, static_cast<long>(wait.count() * 1000)};
    ppoll(polled.data(), polled.size(), &limit, nullptr);

    if (cut_seed_ != seed) {
      seed = cut_seed_;
      dice = Dice{seed};
    }
    const Moment arrives = now() + std::chrono::milliseconds{delay_ms_.load()};
    std::size_t index = 0;
    std::erase_if(lines, [&](const std::unique_ptr<Line>& line) {
      for (Pipe* pipe : {&line->requests(), &line->replies()}) {
        const bool readable = polled[++index].revents != 0;
        bool alive = !readable || pipe->read(arrives);
        while (alive && pipe->has_due()) {
          const bool cut = seed != 0 && pipe == &line->replies() && dice.below(50) == 0;
          const std::size_t before = pipe->front();
          alive = pipe->write(cut ? before / 2 : before, rate_) && !cut;
          if (cut) ++cuts_;
          if (pipe->has_due() && pipe->front() == before) break;  // The peer accepts no data now.
        }
        if (!alive) {
          if (pipe == &line->requests()) ++index;
          return true;
        }
      }
      return false;
    });
    if (polled[0].revents == 0) continue;
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) continue;
    const int server = open_socket();
    const sockaddr_un address = address_of(server_);
    auto line = std::make_unique<Line>(client, server);
    if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
      lines.push_back(std::move(line));
  }
}

}  // namespace taskmux::chaos
