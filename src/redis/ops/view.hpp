#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "redis/session/session.hpp"
#include "taskmux/queue_view.hpp"

// The operations of QueueView, in terms of scripts; each as its contract there says.
namespace taskmux::redis {

std::vector<std::string> queues(Session& session);
std::vector<QueueInfoReply> queue_infos(Session& session, std::span<const std::string> queues);
std::vector<DailyStats> history(Session& session, std::string_view queue, int days);
std::vector<GroupInfo> groups(Session& session, std::string_view queue);
TaskPage list(Session& session, const ListRequest& request);
std::optional<TaskInfo> find(Session& session, std::string_view queue, std::string_view id);
std::vector<TaskStatus> states(Session& session, std::string_view queue,
                               std::span<const std::string> ids);
std::vector<ActReply> act(Session& session, const ActRequest& request);
std::size_t act_all(Session& session, std::string_view queue, TaskAction action, TaskState state,
                    std::size_t limit);
std::vector<TrimReply> trim_archives(Session& session, std::span<const std::string> queues,
                                     const TrimRequest& request);
void update_payload(Session& session, std::string_view queue, std::string_view id,
                    std::string_view payload);
void pause(Session& session, std::string_view queue);
void unpause(Session& session, std::string_view queue);
void cancel(Session& session, std::string_view queue, std::string_view id, CancelMode mode);
void delete_queue(Session& session, std::string_view queue, bool force);

}  // namespace taskmux::redis
