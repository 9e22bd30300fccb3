// The library taskmux::compiled: the bodies of the core and of the memory broker, compiled once. Defined here too, so
// that the headers alone decide what a body is.
#ifndef TASKMUX_COMPILED
#error "the target taskmux::compiled defines TASKMUX_COMPILED for itself and for all who link it"
#endif

#include "taskmux/taskmux.hpp"
// The bodies come after the classes.
#include "taskmux/detail/api/client.hpp"
#include "taskmux/detail/api/dead_letter_queue.hpp"
#include "taskmux/detail/api/handler.hpp"
#include "taskmux/detail/api/inspector.hpp"
#include "taskmux/detail/api/logger.hpp"
#include "taskmux/detail/api/serve_mux.hpp"
#include "taskmux/detail/api/server.hpp"
#include "taskmux/detail/memory/broker.hpp"
