#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "roles.hpp"
#include "taskmux/redis/redis_broker.hpp"
#include "taskmux/taskmux.hpp"

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

class Producer {
 public:
  explicit Producer(const ProducerSettings& settings)
      : settings_{settings},
        dice_{settings.seed},
        ledger_{settings.ledger, settings.name},
        broker_{options(settings)},
        client_{broker_} {}

  void run() {
    const auto began = now();
    std::size_t made = 0;
    while (now() < settings_.until) {
      const auto wanted = static_cast<std::size_t>((now() - began).count()) *
                          static_cast<std::size_t>(settings_.per_second) / 1'000'000;
      if (made >= wanted) {
        std::this_thread::sleep_for(2ms);
        continue;
      }
      const std::size_t batch = 1 + dice_.below(3) * dice_.below(10);
      enqueue(batch);
      made += batch;
    }
  }

 private:
  static RedisOptions options(const ProducerSettings& settings) {
    RedisOptions options = parse_redis_url(settings.url);
    options.command_timeout = command_timeout;
    options.connect_timeout = command_timeout;
    return options;
  }

  void enqueue(std::size_t count) {
    std::vector<NewTask> batch;
    for (std::size_t i = 0; i < count; ++i) {
      const Order order = draw(dice_, settings_.mix);
      const std::string id = settings_.name + "-" + std::to_string(++tasks_);
      ledger_.write(EventKind::ask, id, 0, to_text(order));
      batch.push_back(new_task(order, id));
      if (order.kind == WorkKind::repeated) repeats_.push_back(batch.back());
    }
    for (const EnqueueResult& result : client_.enqueue_all(std::move(batch))) note(result);
    repeat();
  }

  /// Enqueues the repeated tasks until they are known to be accepted. Some of them were accepted
  /// before, and have ended in the meantime.
  void repeat() {
    std::vector<NewTask> unknown;
    const std::vector<EnqueueResult> results = client_.enqueue_all(repeats_);
    for (std::size_t i = 0; i < results.size(); ++i) {
      note(results[i]);
      if (results[i].error) unknown.push_back(std::move(repeats_[i]));
    }
    repeats_ = std::move(unknown);
  }

  void note(const EnqueueResult& result) {
    if (!result.error) {
      ledger_.write(EventKind::accepted, result.id);
      return;
    }
    const bool known =
        result.error->errc() == Errc::duplicate_task || result.error->errc() == Errc::queue_full;
    ledger_.write(known ? EventKind::refused : EventKind::unknown, result.id, 0,
                  result.error->what());
  }

  const ProducerSettings settings_;
  Dice dice_;
  LedgerWriter ledger_;
  RedisBroker broker_;
  Client client_;
  std::size_t tasks_ = 0;
  std::vector<NewTask> repeats_;
};

}  // namespace

std::vector<std::string> ProducerSettings::arguments() const {
  return {producer_role,
          url,
          ledger.string(),
          name,
          std::to_string(seed),
          to_text(mix),
          std::to_string(until.count()),
          std::to_string(per_second)};
}

int run_producer(const std::vector<std::string>& arguments) {
  Producer producer{{.url = arguments.at(1),
                     .ledger = arguments.at(2),
                     .name = arguments.at(3),
                     .seed = std::stoull(arguments.at(4)),
                     .mix = parse_mix(arguments.at(5)),
                     .until = Moment{std::stoll(arguments.at(6))},
                     .per_second = std::stoi(arguments.at(7))}};
  producer.run();
  return 0;
}

}  // namespace taskmux::chaos
