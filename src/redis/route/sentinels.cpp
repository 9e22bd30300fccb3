#include "redis/route/sentinels.hpp"

#include <algorithm>
#include <string>

#include "redis/net/reply.hpp"
#include "redis/route/server_check.hpp"
#include "taskmux/error.hpp"

namespace taskmux::redis {

using std::chrono::steady_clock;

bool Sentinels::name_another_master() {
  const auto now = steady_clock::now();
  if (now < next_look_.load() || !known_master() || looking_.exchange(true)) return false;
  struct Looking {
    std::atomic<bool>& flag;
    ~Looking() { flag = false; }
  } looking{looking_};
  const auto deadline = now + look_timeout;
  const auto address = candidates().front();
  bool another = false;
  try {
    if (!observer_ || !observer_->healthy()) observer_ = open(address, deadline);
    const auto named = ask(*observer_, deadline);
    another = named && named != known_master();
    silent_ = 0;
    next_look_ = now + look_interval;
  } catch (const Error&) {
    // Another Sentinel may know; and connect() asks all of them when it has to.
    observer_.reset();
    move_to_the_end(address);
    ++silent_;
    next_look_ = now + (silent_ < candidates().size() ? 1 : 3) * look_interval;
  }
  return another;
}

std::unique_ptr<Connection> Sentinels::connect(SteadyTime deadline) {
  const auto master = find(deadline);
  auto connection = std::make_unique<Connection>(master, login_of(options_), deadline, &resolver_);
  const auto role = connection->command({"ROLE"}, deadline);
  if (role[0].as_string() != "master")
    refuse(Errc::unavailable, master,
           "the Sentinels name it as the master, but it is a " + printable(role[0].as_string()));
  detail::MutexLock lock{mutex_};
  last_master_ = master;
  return connection;
}

Endpoint Sentinels::find(SteadyTime deadline) {
  const auto addresses = candidates();
  auto left = static_cast<int>(addresses.size()) + 1;  // one more for the master
  std::string causes;
  bool any_answer = false;
  std::optional<Errc> errc;  // the error that all failures have in common
  const auto note = [&](Errc each, const std::string& cause) {
    causes += "; " + cause;
    errc = errc.value_or(each) == each ? each : Errc::unavailable;
  };
  for (const auto& address : addresses) {
    const auto now = steady_clock::now();
    try {
      const auto share = now + (deadline - now) / left--;
      const auto master = ask(*open(address, share), share);
      any_answer = true;
      if (!master) {
        note(Errc::unavailable,
             "a Sentinel at " + printable(address.host) + " knows no master of that name");
        continue;
      }
      prefer(address);
      return *master;
    } catch (const Error& error) {
      note(error.errc(), error.what());
    }
  }
  const auto known = known_master();
  if (!any_answer && known) return *known;  // it must confirm that it is still the master
  throw Error{errc.value_or(Errc::unavailable), "ask the Sentinels for the master \"" +
                                                    printable(options_.master_name) +
                                                    "\": no answer" + causes};
}

std::unique_ptr<Connection> Sentinels::open(const RedisAddress& address,
                                            SteadyTime deadline) const {
  return std::make_unique<Connection>(
      Endpoint{.host = address.host, .port = address.port},
      Login{.user = options_.sentinel_user, .password = options_.sentinel_password}, deadline,
      &resolver_);
}

std::optional<Endpoint> Sentinels::ask(Connection& sentinel, SteadyTime deadline) const {
  const auto reply =
      sentinel.command({"SENTINEL", "get-master-addr-by-name", options_.master_name}, deadline);
  if (reply.is_nil()) return std::nullopt;
  reply.expect_array(2);
  const auto port = reply[1].as_number();
  if (port < 1 || port > 65535) throw Error{Errc::protocol, "a Sentinel named no valid port"};
  return Endpoint{.host = std::string{reply[0].as_string()},
                  .port = static_cast<std::uint16_t>(port)};
}

std::optional<Endpoint> Sentinels::known_master() {
  detail::MutexLock lock{mutex_};
  return last_master_;
}

std::vector<RedisAddress> Sentinels::candidates() {
  detail::MutexLock lock{mutex_};
  return addresses_;
}

void Sentinels::move_to_the_end(const RedisAddress& address) {
  detail::MutexLock lock{mutex_};
  const auto found = std::find(addresses_.begin(), addresses_.end(), address);
  if (found != addresses_.end()) std::rotate(found, found + 1, addresses_.end());
}

void Sentinels::prefer(const RedisAddress& address) {
  detail::MutexLock lock{mutex_};
  const auto found = std::find(addresses_.begin(), addresses_.end(), address);
  if (found != addresses_.end()) std::rotate(addresses_.begin(), found, found + 1);
}

}  // namespace taskmux::redis
