#include <cstdio>
#include <string>

#include "all_headers.hpp"
#include "units.hpp"

#define TASKMUX_TEXT_OF(macro) #macro
#define TASKMUX_TEXT(macro) TASKMUX_TEXT_OF(macro)

// Both units use the library, so that whatever of it is not inline is defined twice and does not
// link; and what is inline must be the same thing in both.
int main() {
  const std::string version = TASKMUX_TEXT(TASKMUX_VERSION_MAJOR) "." TASKMUX_TEXT(
      TASKMUX_VERSION_MINOR) "." TASKMUX_TEXT(TASKMUX_VERSION_PATCH);
  if (version != TASKMUX_VERSION_STRING) {
    std::fputs("version.hpp contradicts itself\n", stderr);
    return 1;
  }

  taskmux::MemoryBroker broker;
  enqueue_in_second_unit(broker);
  taskmux::Client{broker}.enqueue({.type = "of the first unit"}, {.queue = "units"});
  if (broker.queue_info("units").pending != 2) {
    std::fputs("the two units do not see the same broker\n", stderr);
    return 1;
  }
  return 0;
}
