#include "redis/asynq/cancellations.hpp"

#include <charconv>
#include <chrono>
#include <cstddef>
#include <system_error>

namespace taskmux::redis {
namespace {

/// Removes a number and the following space from the front of `text`; returns the number.
template <typename Number>
bool take_number(std::string_view& text, Number& number) {
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || stopped == end || *stopped != ' ') return false;
  text.remove_prefix(static_cast<std::size_t>(stopped - text.data()) + 1);
  return true;
}

}  // namespace

std::string BoundCancellation::encode() const {
  std::string message = std::to_string(database);
  message.append(repeated ? " 1 " : " 0 ");
  message.append(std::to_string(queue.size())).append(" ").append(queue).append(task_id);
  return message;
}

std::optional<BoundCancellation> BoundCancellation::decode(std::string_view message) {
  BoundCancellation decoded;
  int repeated = 0;
  std::size_t queue_bytes = 0;
  if (!take_number(message, decoded.database) || !take_number(message, repeated) ||
      !take_number(message, queue_bytes) || queue_bytes > message.size()) {
    return std::nullopt;
  }
  decoded.repeated = repeated != 0;
  decoded.queue = message.substr(0, queue_bytes);
  decoded.task_id = message.substr(queue_bytes);
  return decoded;
}

bool Cancellations::hear(const std::string& node, const std::string& task_id, SteadyTime now) {
  Told& task = tasks_[task_id];
  task.at = now;
  const int heard = ++task.heard[node];
  if (heard <= task.times) return false;
  task.times = heard;
  return true;
}

void Cancellations::forget_old(SteadyTime now) {
  using namespace std::chrono_literals;
  std::erase_if(tasks_, [now](const auto& each) { return now - each.second.at >= 15s; });
}

}  // namespace taskmux::redis
