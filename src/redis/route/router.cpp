#include "redis/route/router.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "redis/net/epoch.hpp"
#include "redis/net/resolver.hpp"
#include "redis/route/key_slot.hpp"
#include "redis/route/sentinels.hpp"
#include "redis/route/server_check.hpp"
#include "redis/route/slot_map.hpp"

namespace taskmux::redis {
namespace {

using std::chrono::steady_clock;

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

  /// Many doubts arise at once when a node is unavailable: not each of them is worth a round trip.
  bool due_for_refresh() {
    if (!doubted_.load(std::memory_order_relaxed)) return false;
    const auto now = steady_clock::now();
    detail::MutexLock lock{mutex_};
    if (now < next_refresh_) return false;
    next_refresh_ = now + options_.reconnect_min;
    return true;
  }

  /// Returns the slot map; requests it again if it is in doubt and any node answers.
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

  /// Returns the nodes that can be asked for the slot map: the known nodes, those in contact first,
  /// then the seeds.
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
