#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "redis/store.hpp"
#include "taskmux/queue_view.hpp"

// The operations of QueueView, in terms of scripts; each as its contract there says.
namespace taskmux::redis {

std::vector<std::string> queues(Store& store);
QueueInfo queue_info(Store& store, std::string_view queue);
std::vector<DailyStats> history(Store& store, std::string_view queue, int days);
std::vector<TaskInfo> list(Store& store, std::string_view queue, TaskState state, Page page);
std::optional<TaskInfo> find(Store& store, std::string_view queue, std::string_view id);
std::vector<std::optional<Errc>> act(Store& store, std::string_view queue, TaskAction action,
                                     std::span<const std::string> ids,
                                     std::optional<TaskState> only);
std::size_t act_all(Store& store, std::string_view queue, TaskAction action, TaskState state,
                    std::size_t limit);
std::vector<TrimReply> trim_archives(Store& store, std::span<const std::string> queues,
                                     const TrimRequest& request);
void update_payload(Store& store, std::string_view queue, std::string_view id,
                    std::string_view payload);
void pause(Store& store, std::string_view queue);
void unpause(Store& store, std::string_view queue);
void cancel(Store& store, std::string_view queue, std::string_view id, CancelMode mode);
void delete_queue(Store& store, std::string_view queue, bool force);
std::vector<ServerInfo> servers(Store& store);

}  // namespace taskmux::redis
