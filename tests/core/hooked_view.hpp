#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/broker_wrapper.hpp"
#include "taskmux/queue_view.hpp"

namespace taskmux::test {

/// A broker with hooks at the calls of its view: a test can act in between, or make them fail.
class HookedView final : public BrokerWrapper {
 public:
  using BrokerWrapper::BrokerWrapper;

  std::function<void()> before_find;
  std::function<void()> before_list;
  std::function<void()> before_act;
  std::function<void()> before_act_all;
  std::size_t longest_page = 0;
  std::size_t listed = 0;  ///< Number of tasks in all pages.

  TaskPage list(const ListRequest& request) override {
    if (before_list) before_list();
    TaskPage page = BrokerWrapper::list(request);
    longest_page = std::max(longest_page, page.tasks.size());
    listed += page.tasks.size();
    return page;
  }
  std::optional<TaskInfo> find(std::string_view queue, std::string_view id) override {
    if (before_find) before_find();
    return BrokerWrapper::find(queue, id);
  }
  std::vector<ActReply> act(const ActRequest& request) override {
    if (before_act) before_act();
    return BrokerWrapper::act(request);
  }
  std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                      std::size_t limit) override {
    if (before_act_all) before_act_all();
    return BrokerWrapper::act_all(queue, action, state, limit);
  }
};

}  // namespace taskmux::test
