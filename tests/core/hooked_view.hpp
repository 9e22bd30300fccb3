#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/queue_view.hpp"

namespace taskmux::test {

/// A broker that is nothing but the view of another, with hooks at its calls: a test lets others
/// act in between, or fails them.
class HookedView final : public Broker, public QueueView {
 public:
  explicit HookedView(QueueView& view) : view_{view} {}

  std::function<void()> before_find;
  std::function<void()> before_list;
  std::function<void()> before_act;
  std::function<void()> before_act_all;
  std::size_t longest_page = 0;
  std::size_t listed = 0;  ///< Tasks, in all pages.

  QueueView& queue_view() override { return *this; }

  Time now() override { return view_.now(); }
  std::vector<std::string> queues() override { return view_.queues(); }
  QueueInfo queue_info(std::string_view queue) override { return view_.queue_info(queue); }
  std::vector<DailyStats> history(std::string_view queue, int days) override {
    return view_.history(queue, days);
  }
  std::vector<TaskInfo> list(std::string_view queue, TaskState state, Page page) override {
    if (before_list) before_list();
    std::vector<TaskInfo> tasks = view_.list(queue, state, page);
    longest_page = std::max(longest_page, page.limit);
    listed += tasks.size();
    return tasks;
  }
  std::optional<TaskInfo> find(std::string_view queue, std::string_view id) override {
    if (before_find) before_find();
    return view_.find(queue, id);
  }
  std::vector<std::optional<Errc>> act(std::string_view queue, TaskAction action,
                                       std::span<const std::string> ids,
                                       std::optional<TaskState> only) override {
    if (before_act) before_act();
    return view_.act(queue, action, ids, only);
  }
  std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                      std::size_t limit) override {
    if (before_act_all) before_act_all();
    return view_.act_all(queue, action, state, limit);
  }
  std::vector<TrimReply> trim_archives(std::span<const std::string> queues,
                                       const TrimRequest& request) override {
    return view_.trim_archives(queues, request);
  }
  void update_payload(std::string_view queue, std::string_view id, std::string payload) override {
    view_.update_payload(queue, id, std::move(payload));
  }
  void pause(std::string_view queue) override { view_.pause(queue); }
  void unpause(std::string_view queue) override { view_.unpause(queue); }
  void cancel(std::string_view queue, std::string_view id, CancelMode mode) override {
    view_.cancel(queue, id, mode);
  }
  void delete_queue(std::string_view queue, bool force) override {
    view_.delete_queue(queue, force);
  }
  std::vector<ServerInfo> servers() override { return view_.servers(); }

  std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest>) override { refuse(); }
  ExchangeReply exchange(const ExchangeRequest&) override { refuse(); }
  std::vector<ExtendReply> extend(std::span<const ExtendRequest>, Duration) override { refuse(); }
  std::unique_ptr<Watch> watch(std::vector<std::string>,
                               std::function<void(const Hint&)>) override {
    refuse();
  }
  UpkeepReply upkeep(const UpkeepRequest&) override { refuse(); }
  void heartbeat(const ServerInfo&, Duration) override { refuse(); }
  void retire(const ServerInfo&) override { refuse(); }
  void ping() override { refuse(); }

 private:
  [[noreturn]] static void refuse() { throw std::logic_error{"a view alone"}; }

  QueueView& view_;
};

}  // namespace taskmux::test
