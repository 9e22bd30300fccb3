#pragma once

/// taskmux: a background task queue that a C++ service links in. This header includes the core and
/// the in-memory broker. Suggested reading order:
///
///   task.hpp               Task, EnqueueOptions, TaskInfo: plain values
///   error.hpp              Errc, Error
///   handler.hpp            TaskHandler, Context, Outcome: what runs a task
///   serve_mux.hpp          ServeMux: routes tasks to handlers; middleware
///   client.hpp             Client: puts tasks into queues
///   server.hpp             Server: the workers
///   server_config.hpp      ServerConfig, Hooks, ServerStats, Health
///   retry.hpp              policies for when a failed task is retried
///   inspector.hpp          Inspector: shows queues, and repairs them
///   dead_letter_queue.hpp  DeadLetterQueue: the tasks that failed for good
///   clock.hpp, logger.hpp  SystemClock, ManualClock for tests; Logger
///   memory/memory_broker.hpp   MemoryBroker: the in-process broker
///   broker.hpp, queue_view.hpp, registry.hpp   the ports, for authors of brokers
///
/// Optional headers: json.hpp (taskmux::json), redis/redis_broker.hpp (taskmux::redis), signals.hpp
/// (shuts a server down on SIGTERM), testing.hpp (for your own tests), broker_wrapper.hpp (a
/// decorator for brokers).

#include "taskmux/broker.hpp"
#include "taskmux/client.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/dead_letter_queue.hpp"
#include "taskmux/error.hpp"
#include "taskmux/handler.hpp"
#include "taskmux/inspector.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/memory/memory_broker.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"
#include "taskmux/retry.hpp"
#include "taskmux/serve_mux.hpp"
#include "taskmux/server.hpp"
#include "taskmux/task.hpp"
#include "taskmux/version.hpp"
