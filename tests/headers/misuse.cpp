// What must not compile, and how that is said: misuse.cmake compiles this once for each MISUSE. 0
// is what is right.
#include "taskmux/serve_mux.hpp"
#if MISUSE == 8
#include "taskmux/signals.hpp"
#include "taskmux/taskmux.hpp"
#include "taskmux/testing.hpp"
#endif
#ifdef TASKMUX_MISUSE_JSON
#include "taskmux/json.hpp"
#endif

using namespace taskmux;

void misuse(ServeMux& mux) {
#if MISUSE == 0
  mux.handle("t",
             [n = 1](Context&, const Task&) { return n == 1 ? Outcome{} : Outcome::revoke(); });
  mux.handle("u", [](auto&, const auto&) {});
  mux.handle("v", [](Context&, Task) {});
#elif MISUSE == 1
  mux.handle("t", [n = 0](Context&, const Task&) mutable { ++n; });
#elif MISUSE == 2
  mux.handle("t", [](const Task&) {});
#elif MISUSE == 3
  mux.handle("t", [](Context&, const Task&) { return true; });
#elif MISUSE == 4
  mux.not_found([](Context&, Task&) {});
#elif MISUSE == 5
  mux.handle("t", 7, {});
#elif MISUSE == 6
  handle_json<int>(mux, "t", [](Context&, const Task&) {});
#elif MISUSE == 7
  handle_json<int>(mux, "t", [n = 0](Context&, int more) mutable { n += more; });
#endif
}
