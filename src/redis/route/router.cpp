#include "redis/route/router.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "redis/net/epoch.hpp"
#include "redis/route/slot_map.hpp"
#include "redis/route/transport.hpp"

namespace taskmux::redis {
namespace {

using std::chrono::steady_clock;

Login login_of(const RedisOptions& options) {
  return {.user = options.user,
          .password = options.password,
          .database = options.database,
          .client_name = options.client_name};
}

[[noreturn]] void refuse(Errc errc, const Endpoint& endpoint, const std::string& cause) {
  throw Error{errc, "connect to Redis at " + endpoint.to_string() + ": " + cause};
}

/// A server found where another kind was expected would fail later, and less clearly.
void check_mode(const Connection& connection, RedisMode expected) {
  const auto& mode = connection.server().mode;
  if (mode == "sentinel")
    refuse(Errc::invalid_argument, connection.endpoint(),
           "this is a Sentinel, not the server it guards (use redis-sentinel://)");
  if (mode == "cluster" && expected != RedisMode::cluster)
    refuse(Errc::invalid_argument, connection.endpoint(),
           "this is a node of a Redis Cluster (use redis-cluster://)");
  if (mode == "standalone" && expected == RedisMode::cluster)
    refuse(Errc::invalid_argument, connection.endpoint(), "this is not a node of a Redis Cluster");
}

/// Warns, once, of a server that is set up to lose tasks.
class SettingsCheck {
 public:
  explicit SettingsCheck(const Logger& logger) : logger_{logger} {}

  void run_once(Connection& connection, SteadyTime deadline) {
    if (done_.exchange(true)) return;
    try {
      run(connection, deadline);
    } catch (...) {
      done_ = false;
      throw;
    }
  }

 private:
  void run(Connection& connection, SteadyTime deadline) {
    Commands commands;
    commands.add({"CONFIG", "GET", "maxmemory-policy"});
    commands.add({"CONFIG", "GET", "save"});
    commands.add({"CONFIG", "GET", "appendonly"});
    const auto replies = connection.pipeline(commands, deadline);
    const auto policy = value_of(replies[0]);
    const auto save = value_of(replies[1]);
    const auto append_only = value_of(replies[2]);
    const auto where = "Redis at " + connection.endpoint().to_string();
    if (policy && *policy != "noeviction")
      logger_(LogLevel::warning, where +
                                     " may evict tasks when its memory is full: its "
                                     "maxmemory-policy is " +
                                     printable(*policy) + ", and should be noeviction");
    if (save && save->empty() && append_only && *append_only == "no")
      logger_(LogLevel::warning,
              where +
                  " loses all tasks when it stops: neither snapshots (save) nor appendonly "
                  "are on");
  }

  /// Nothing where an ACL or a hosting service refuses CONFIG.
  static std::optional<std::string_view> value_of(const Reply& reply) {
    if (!reply.is_array() || reply.size() < 2 || !reply[1].is_string()) return std::nullopt;
    return reply[1].as_string();
  }

  const Logger& logger_;
  std::atomic<bool> done_{false};
};

/// One server at a time.
class SingleRouter : public Router {
 public:
  SingleRouter(std::string name, const RedisOptions& options, std::atomic<std::uint64_t>& epoch,
               Pool::Connector connector)
      : settings_{options.logger},
        pool_{std::make_shared<Pool>(
            std::move(name), options, epoch,
            [this, &options, connect = std::move(connector)](SteadyTime deadline) {
              auto connection = connect(deadline);
              check_mode(*connection, options.mode);
              settings_.run_once(*connection, deadline);
              return connection;
            })} {}

  std::shared_ptr<Pool> pool_for(std::string_view, SteadyTime) override { return pool_; }
  std::shared_ptr<Pool> pool_at(std::string_view, const Pool&) override { return nullptr; }
  std::shared_ptr<Pool> pool_named(std::string_view) override { return pool_; }
  std::shared_ptr<Pool> pool_of(const Connection&) override { return pool_; }

 protected:
  Pool& only_pool() noexcept { return *pool_; }

 private:
  SettingsCheck settings_;
  std::shared_ptr<Pool> pool_;
};

/// Asks Sentinels where the master is, the one that answered last first. Thread-safe.
class Sentinels {
 public:
  explicit Sentinels(const RedisOptions& options)
      : options_{options}, addresses_{options.addresses} {}

  /// Whether the Sentinels name another master than the one connected to last: an old one that
  /// still runs goes on taking writes for seconds, and they will be lost. Looks once a second at
  /// most, on one caller's time; after a Sentinel that did not answer at the next one, and less often
  /// while none does.
  bool name_another_master() {
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
      // Another one may know; and connect() asks all of them, once it has to.
      observer_.reset();
      move_to_the_end(address);
      ++silent_;
      next_look_ = now + (silent_ < candidates().size() ? 1 : 3) * look_interval;
    }
    return another;
  }

  /// A connection to the master, which has itself confirmed that it is one.
  std::unique_ptr<Connection> connect(SteadyTime deadline) {
    const auto master = find(deadline);
    auto connection =
        std::make_unique<Connection>(master, login_of(options_), deadline, &resolver_);
    const auto role = connection->command({"ROLE"}, deadline);
    if (role[0].as_string() != "master")
      refuse(Errc::unavailable, master,
             "the Sentinels name it as master, and it is a " + printable(role[0].as_string()));
    detail::MutexLock lock{mutex_};
    last_master_ = master;
    return connection;
  }

 private:
  Endpoint find(SteadyTime deadline) {
    const auto addresses = candidates();
    auto left = static_cast<int>(addresses.size()) + 1;  // one share for the master itself
    std::string causes;
    bool any_answer = false;
    std::optional<Errc> errc;  // what all failures have in common
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
    if (!any_answer && known) return *known;  // it has to confirm that it still is
    throw Error{errc.value_or(Errc::unavailable), "ask the Sentinels for the master \"" +
                                                      printable(options_.master_name) +
                                                      "\": no answer" + causes};
  }

  std::unique_ptr<Connection> open(const RedisAddress& address, SteadyTime deadline) const {
    return std::make_unique<Connection>(
        Endpoint{.host = address.host, .port = address.port},
        Login{.user = options_.sentinel_user, .password = options_.sentinel_password}, deadline,
        &resolver_);
  }

  std::optional<Endpoint> ask(Connection& sentinel, SteadyTime deadline) const {
    const auto reply =
        sentinel.command({"SENTINEL", "get-master-addr-by-name", options_.master_name}, deadline);
    if (reply.is_nil()) return std::nullopt;
    reply.expect_array(2);
    const auto port = reply[1].as_number();
    if (port < 1 || port > 65535) throw Error{Errc::protocol, "a Sentinel named no valid port"};
    return Endpoint{.host = std::string{reply[0].as_string()},
                    .port = static_cast<std::uint16_t>(port)};
  }

  std::optional<Endpoint> known_master() {
    detail::MutexLock lock{mutex_};
    return last_master_;
  }

  std::vector<RedisAddress> candidates() {
    detail::MutexLock lock{mutex_};
    return addresses_;
  }

  void move_to_the_end(const RedisAddress& address) {
    detail::MutexLock lock{mutex_};
    const auto found = std::find(addresses_.begin(), addresses_.end(), address);
    if (found != addresses_.end()) std::rotate(found, found + 1, addresses_.end());
  }

  void prefer(const RedisAddress& address) {
    detail::MutexLock lock{mutex_};
    const auto found = std::find(addresses_.begin(), addresses_.end(), address);
    if (found != addresses_.end()) std::rotate(addresses_.begin(), found, found + 1);
  }

  static constexpr auto look_interval = std::chrono::seconds{1};
  static constexpr auto look_timeout = std::chrono::milliseconds{200};

  const RedisOptions& options_;
  mutable Resolver resolver_;
  std::atomic<SteadyTime> next_look_{SteadyTime{}};
  std::atomic<bool> looking_{false};
  std::unique_ptr<Connection> observer_;  ///< Of whoever set `looking_`, as is the next one.
  std::size_t silent_ = 0;                ///< Sentinels that did not answer, in a row.
  detail::Mutex mutex_;
  std::vector<RedisAddress> addresses_ TASKMUX_GUARDED_BY(mutex_);
  std::optional<Endpoint> last_master_ TASKMUX_GUARDED_BY(mutex_);
};

class SentinelRouter final : public SingleRouter {
 public:
  SentinelRouter(const RedisOptions& options, std::atomic<std::uint64_t>& epoch,
                 std::shared_ptr<Sentinels> sentinels)
      : SingleRouter{"master \"" + printable(options.master_name) + "\"", options, epoch,
                     [sentinels](SteadyTime deadline) { return sentinels->connect(deadline); }},
        sentinels_{std::move(sentinels)} {}

  std::shared_ptr<Pool> pool_for(std::string_view slot_key, SteadyTime deadline) override {
    look();
    return SingleRouter::pool_for(slot_key, deadline);
  }

  bool holds(const Connection& connection) override {
    look();
    return SingleRouter::holds(connection);
  }

 private:
  void look() {
    if (sentinels_->name_another_master()) only_pool().lost("the Sentinels name another master");
  }

  const std::shared_ptr<Sentinels> sentinels_;
};

class ClusterRouter final : public Router {
 public:
  ClusterRouter(const RedisOptions& options, std::atomic<std::uint64_t>& epoch)
      : options_{options}, epoch_{epoch}, settings_{options.logger} {}

  std::shared_ptr<Pool> pool_for(std::string_view slot_key, SteadyTime deadline) override {
    const auto map = current_map(deadline);
    if (slot_key.empty()) return any_pool(*map);
    const auto owner = map->owners[slot_of(slot_key)];
    return owner == SlotMap::nobody ? nullptr : pool(map->nodes[owner]);
  }

  std::shared_ptr<Pool> pool_at(std::string_view address, const Pool& sender) override {
    const auto endpoint = parse_address(address, sender.endpoint());
    return endpoint ? pool(*endpoint) : nullptr;
  }

  std::shared_ptr<Pool> pool_named(std::string_view name) override {
    detail::MutexLock lock{mutex_};
    const auto found = pools_.find(name);
    return found == pools_.end() ? nullptr : found->second;
  }

  std::shared_ptr<Pool> pool_of(const Connection& connection) override {
    return pool_named(connection.endpoint().to_string());
  }

  void doubt() noexcept override { doubted_ = true; }

 private:
  std::shared_ptr<const SlotMap> known_map() {
    detail::MutexLock lock{mutex_};
    return map_;
  }

  /// Doubts come in swarms when a node is away: not each of them is worth a round trip.
  bool due_for_refresh() {
    if (!doubted_.load(std::memory_order_relaxed)) return false;
    const auto now = steady_clock::now();
    detail::MutexLock lock{mutex_};
    if (now < next_refresh_) return false;
    next_refresh_ = now + options_.reconnect_min;
    return true;
  }

  /// The slot map, asked for again if it is in doubt and any node answers.
  std::shared_ptr<const SlotMap> current_map(SteadyTime deadline) {
    const auto known = known_map();
    if (known && (!due_for_refresh() || !doubted_.exchange(false))) return known;
    std::optional<Error> failure;
    const auto places = sources(known.get());
    auto left = static_cast<int>(places.size());
    for (const auto& place : places) {
      const auto now = steady_clock::now();
      try {
        return adopt(ask(place, now + (deadline - now) / left--));
      } catch (const Error& error) {
        failure.emplace(error);
      }
    }
    doubted_ = true;
    if (known) return known;
    throw *failure;
  }

  std::shared_ptr<const SlotMap> ask(const Endpoint& place, SteadyTime deadline) {
    const auto source = pool(place);
    auto loan = source->take(deadline);
    try {
      const auto reply = loan.connection->command({"CLUSTER", "SLOTS"}, deadline);
      auto map = parse_slots(reply, place);
      source->give_back(std::move(loan));
      return map;
    } catch (const Error& error) {
      if (error.errc() == Errc::unavailable) source->lost(error.what());
      throw;
    }
  }

  std::shared_ptr<const SlotMap> adopt(std::shared_ptr<const SlotMap> map) {
    std::vector<std::shared_ptr<Pool>> dropped;
    detail::MutexLock lock{mutex_};
    if (map_ && *map_ != *map) epoch_.fetch_add(another_server, std::memory_order_acq_rel);
    map_ = map;
    for (auto each = pools_.begin(); each != pools_.end();) {
      const auto serves = [&](const Endpoint& node) { return node.to_string() == each->first; };
      if (std::any_of(map->nodes.begin(), map->nodes.end(), serves)) {
        ++each;
      } else {
        dropped.push_back(std::move(each->second));
        each = pools_.erase(each);
      }
    }
    return map;
  }

  /// Where the slot map can be had: the nodes that are known, those in contact first, then the
  /// seeds.
  std::vector<Endpoint> sources(const SlotMap* map) {
    std::vector<Endpoint> places;
    if (map != nullptr) places = map->nodes;
    std::stable_partition(places.begin(), places.end(),
                          [this](const Endpoint& node) { return pool(node)->in_contact(); });
    for (const auto& [host, port] : options_.addresses) {
      const Endpoint seed{.host = host, .port = port};
      if (std::find(places.begin(), places.end(), seed) == places.end()) places.push_back(seed);
    }
    return places;
  }

  std::shared_ptr<Pool> any_pool(const SlotMap& map) {
    for (const auto& node : map.nodes)
      if (auto found = pool(node); found->in_contact()) return found;
    return pool(map.nodes.front());
  }

  std::shared_ptr<Pool> pool(const Endpoint& endpoint) {
    const auto name = endpoint.to_string();
    detail::MutexLock lock{mutex_};
    auto& found = pools_[name];
    if (!found)
      found = std::make_shared<Pool>(
          name, options_, epoch_,
          [this, endpoint](SteadyTime deadline) {
            auto connection =
                std::make_unique<Connection>(endpoint, login_of(options_), deadline, &resolver_);
            check_mode(*connection, RedisMode::cluster);
            settings_.run_once(*connection, deadline);
            return connection;
          },
          endpoint);
    return found;
  }

  const RedisOptions& options_;
  std::atomic<std::uint64_t>& epoch_;
  Resolver resolver_;
  SettingsCheck settings_;
  std::atomic<bool> doubted_{false};
  detail::Mutex mutex_;
  SteadyTime next_refresh_ TASKMUX_GUARDED_BY(mutex_){};
  std::shared_ptr<const SlotMap> map_ TASKMUX_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Pool>, std::less<>> pools_ TASKMUX_GUARDED_BY(mutex_);
};

std::unique_ptr<Router> make_direct_router(const RedisOptions& options,
                                           std::atomic<std::uint64_t>& epoch) {
  const Endpoint endpoint = options.mode == RedisMode::unix_socket
                                ? Endpoint{.socket_path = options.socket_path}
                                : Endpoint{.host = options.host, .port = options.port};
  return std::make_unique<SingleRouter>(
      endpoint.to_string(), options, epoch,
      [endpoint, &options, resolver = std::make_shared<Resolver>()](SteadyTime deadline) {
        return std::make_unique<Connection>(endpoint, login_of(options), deadline, resolver.get());
      });
}

}  // namespace

std::unique_ptr<Router> make_router(const RedisOptions& options,
                                    std::atomic<std::uint64_t>& epoch) {
  switch (options.mode) {
    case RedisMode::standalone:
    case RedisMode::unix_socket: return make_direct_router(options, epoch);
    case RedisMode::sentinel:
      return std::make_unique<SentinelRouter>(options, epoch, std::make_shared<Sentinels>(options));
    case RedisMode::cluster: return std::make_unique<ClusterRouter>(options, epoch);
  }
  throw std::invalid_argument{"Redis options: mode is not one of RedisMode"};
}

}  // namespace taskmux::redis
