#pragma once

#include <stop_token>
#include <string>
#include <utility>

#include "taskmux/detail/engine/server_engine.hpp"
#include "taskmux/server.hpp"

namespace taskmux {
inline namespace v0 {

TASKMUX_INLINE Server::Server(Broker& broker, ServeMux mux, ServerConfig config)
    : engine_{new detail::ServerEngine{broker, std::move(mux), std::move(config)}} {}
TASKMUX_INLINE Server::~Server() {
  if (engine_->can_end()) {
    delete engine_;
  } else {
    engine_->abandon();  // And left as it is: its threads, where there are any, use it.
  }
}
TASKMUX_INLINE void Server::start() { engine_->start(); }
TASKMUX_INLINE void Server::stop() noexcept { engine_->stop(); }
TASKMUX_INLINE void Server::shutdown() { engine_->shutdown(); }
TASKMUX_INLINE void Server::run(std::stop_token stop) { engine_->run(std::move(stop)); }
TASKMUX_INLINE ServerStats Server::stats() const { return engine_->stats(); }
TASKMUX_INLINE Health Server::health() const { return engine_->health(); }
TASKMUX_INLINE const std::string& Server::id() const noexcept { return engine_->id(); }

}  // namespace v0
}  // namespace taskmux
