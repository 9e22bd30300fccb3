// What a service's first file looks like; counted by symbols.cmake.
#include "taskmux/taskmux.hpp"

int main() {
  taskmux::MemoryBroker broker;
  taskmux::ServeMux mux;
  mux.handle("greet", [](taskmux::Context&, const taskmux::Task&) {});
  taskmux::Server server{broker, std::move(mux)};
  server.start();
  taskmux::Client{broker}.enqueue({.type = "greet"});
  server.shutdown();
}
