#include "all_headers.hpp"
#include "units.hpp"

void enqueue_in_second_unit(taskmux::Broker& broker) {
  taskmux::Client{broker}.enqueue({.type = "of the second unit"}, {.queue = "units"});
}
