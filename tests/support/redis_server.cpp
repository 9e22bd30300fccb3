#include "support/redis_server.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace taskmux::test {
namespace {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error{errno, std::generic_category(), what};
}

bool can_bind(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw_errno("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return bound;
}

/// Returns whether no other test uses `port`; then it is reserved until this process ends. The
/// reservation is a name in Linux's abstract socket namespace, which disappears with the process.
bool reserve(std::uint16_t port) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw_errno("socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "taskmux-test-port-" + std::to_string(port);
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0) return true;
  close(fd);
  return false;
}

std::string contents(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream{path}.rdbuf();
  return text.str();
}

SteadyTime soon() { return steady_clock::now() + 5s; }

/// Returns whether a login to `endpoint` succeeds and the server has loaded its data.
bool answers(const redis::Endpoint& endpoint, const redis::Login& login) {
  try {
    redis::Connection connection{endpoint, login, soon()};
    return connection.command({"PING"}, soon()).is_string();
  } catch (const Error&) {
    return false;
  }
}

void await_start(ChildProcess& process, const redis::Endpoint& endpoint, const redis::Login& login,
                 const std::filesystem::path& log) {
  bool ended = false;
  const bool started = eventually([&] {
    ended = !process.running();
    return ended || answers(endpoint, login);
  });
  if (ended || !started)
    throw std::runtime_error{"a Redis process did not start:\n" + contents(log)};
}

}  // namespace

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto deadline = steady_clock::now() + limit;
  for (;;) {
    if (condition()) return true;
    if (steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(5ms);
  }
}

std::uint16_t free_port() {
  // Below the range of the kernel's ephemeral ports.
  static std::minstd_rand random{std::random_device{}()};
  std::uniform_int_distribution<int> any{12000, 21999};
  for (int i = 0; i < 1000; ++i) {
    const auto port = static_cast<std::uint16_t>(any(random));
    const bool is_free = can_bind(port) && can_bind(static_cast<std::uint16_t>(port + 10000));
    if (is_free && reserve(port)) return port;
  }
  throw std::runtime_error{"no free port"};
}

TemporaryDirectory::TemporaryDirectory() {
  auto pattern = (std::filesystem::temp_directory_path() / "taskmux-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw_errno("mkdtemp");
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;  // remains are in the system's temporary directory
  std::filesystem::remove_all(path_, ignored);
}

ChildProcess::ChildProcess(const std::vector<std::string>& arguments,
                           const std::filesystem::path& log) {
  std::vector<char*> argv;
  for (const auto& each : arguments) argv.push_back(const_cast<char*>(each.c_str()));
  argv.push_back(nullptr);
  const auto parent = getpid();
  const int output = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (output < 0) throw_errno("open a log");
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  const int error = errno;
  close(output);
  errno = error;
  if (pid_ < 0) throw_errno("fork");
}

ChildProcess::~ChildProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  wait();
}

void ChildProcess::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

void ChildProcess::wait() {
  if (pid_ <= 0) return;
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

bool ChildProcess::running() {
  if (pid_ <= 0) return false;
  const auto ended = waitpid(pid_, nullptr, WNOHANG);
  if (ended == pid_) pid_ = -1;
  return ended == 0;
}

RedisServer::RedisServer(Options options)
    : options_{std::move(options)},
      socket_path_{(directory_.path() / "redis.sock").string()},
      port_{options_.tcp ? free_port() : std::uint16_t{0}} {
  start();
}

RedisServer::~RedisServer() = default;

std::string RedisServer::url() const {
  if (port_ != 0) return "redis://127.0.0.1:" + std::to_string(port_);
  return "redis-socket://" + socket_path_;
}

redis::Endpoint RedisServer::endpoint() const {
  if (port_ != 0) return {.host = "127.0.0.1", .port = port_};
  return {.socket_path = socket_path_};
}

redis::Reply RedisServer::command(std::initializer_list<std::string_view> args) {
  return command(std::vector<std::string>{args.begin(), args.end()});
}

redis::Reply RedisServer::command(const std::vector<std::string>& args) {
  if (!admin_ || !admin_->healthy())
    admin_ = std::make_unique<redis::Connection>(redis::Endpoint{.socket_path = socket_path_},
                                                 options_.admin, soon());
  redis::Commands commands;
  commands.add(std::span<const std::string>{args});
  auto replies = admin_->pipeline(commands, soon());
  redis::throw_if_error(args.front(), replies.front());
  return std::move(replies.front());
}

std::string RedisServer::info(std::string_view section, std::string_view field) {
  const auto reply = command({"INFO", section});
  std::istringstream lines{std::string{reply.as_string()}};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(field) || line.size() <= field.size() || line[field.size()] != ':')
      continue;
    if (line.ends_with('\r')) line.pop_back();
    return line.substr(field.size() + 1);
  }
  return {};
}

void RedisServer::kill() {
  admin_.reset();
  process_.reset();
}

void RedisServer::start() {
  const auto log = directory_.path() / "redis.log";
  std::vector<std::string> arguments{"redis-server",
                                     "--dir",
                                     directory_.path().string(),
                                     "--unixsocket",
                                     socket_path_,
                                     "--bind",
                                     "127.0.0.1",
                                     "--port",
                                     std::to_string(port_),
                                     "--save",
                                     "",
                                     "--repl-diskless-sync-delay",
                                     "0"};
  arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
  process_ = std::make_unique<ChildProcess>(arguments, log);
  await_start(*process_, {.socket_path = socket_path_}, options_.admin, log);
}

void RedisServer::pause() { process_->signal(SIGSTOP); }

void RedisServer::resume() { process_->signal(SIGCONT); }

RedisSentinel::RedisSentinel(const Options& options) : port_{free_port()} {
  login_.password = options.password;
  const auto& name = options.master_name;
  const auto configuration = directory_.path() / "sentinel.conf";
  {
    std::ofstream file{configuration};
    file << "port " << port_ << "\nbind 127.0.0.1\ndir " << directory_.path().string()
         << "\nsentinel monitor " << name << " 127.0.0.1 " << options.master_port << " 1"
         << "\nsentinel down-after-milliseconds " << name << " 500"
         << "\nsentinel failover-timeout " << name << " 2000\n";
    if (!options.master_password.empty())
      file << "sentinel auth-pass " << name << " " << options.master_password << "\n";
    if (!options.password.empty()) file << "requirepass " << options.password << "\n";
  }
  const auto log = directory_.path() / "sentinel.log";
  process_ = std::make_unique<ChildProcess>(
      std::vector<std::string>{"redis-sentinel", configuration.string()}, log);
  await_start(*process_, {.host = "127.0.0.1", .port = port_}, login_, log);
  try {
    command({"SENTINEL", "DEBUG", "INFO-PERIOD", "100"});
  } catch (const Error&) {
    // Before Redis 7, it checks its servers every ten seconds, which tests would have to wait for.
  }
}

redis::Reply RedisSentinel::command(std::initializer_list<std::string_view> args) {
  redis::Connection connection{{.host = "127.0.0.1", .port = port_}, login_, soon()};
  return connection.command(args, soon());
}

RedisCluster::RedisCluster(std::size_t nodes) : size_{nodes} {
  for (std::size_t i = 0; i < nodes; ++i) {
    nodes_.push_back(std::make_unique<RedisServer>(RedisServer::Options{
        .tcp = true, .arguments = {"--cluster-enabled", "yes", "--cluster-node-timeout", "2000"}}));
    std::vector<std::string> add_slots{"CLUSTER", "ADDSLOTS"};
    for (int slot = 0; slot < 16384; ++slot)
      if (owner_of(static_cast<std::uint16_t>(slot)) == i)
        add_slots.push_back(std::to_string(slot));
    nodes_.back()->command(add_slots);
  }
  for (std::size_t i = 1; i < nodes; ++i)
    nodes_[0]->command({"CLUSTER", "MEET", "127.0.0.1", std::to_string(nodes_[i]->port())});
  const bool complete = eventually([this] {
    for (auto& node : nodes_) {
      const auto reply = node->command({"CLUSTER", "INFO"});
      const auto info = reply.as_string();
      const auto known = "cluster_known_nodes:" + std::to_string(nodes_.size()) + "\r";
      if (info.find("cluster_state:ok") == info.npos || info.find(known) == info.npos) return false;
    }
    return true;
  });
  if (!complete) throw std::runtime_error{"the nodes of a Redis Cluster did not join"};
}

std::string RedisCluster::url() const {
  return "redis-cluster://127.0.0.1:" + std::to_string(nodes_.front()->port());
}

std::string RedisCluster::id(std::size_t index) {
  return std::string{node(index).command({"CLUSTER", "MYID"}).as_string()};
}

std::size_t RedisCluster::owner_of(std::uint16_t slot) const noexcept {
  return slot * size_ / 16384;
}

}  // namespace taskmux::test
