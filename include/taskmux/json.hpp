#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "taskmux/client.hpp"
#include "taskmux/error.hpp"
#include "taskmux/handler.hpp"
#include "taskmux/serve_mux.hpp"
#include "taskmux/task.hpp"

/// Typed payloads and results as JSON. Opt-in: the target taskmux::json, which needs nlohmann_json.
///
/// A type takes part if nlohmann_json can convert it both ways, such as by
/// NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE. What is read is checked more strictly than nlohmann_json
/// does by itself:
///
/// - A number must come out as it went in: 300 for a std::uint8_t, 1.5 or `true` for an int, -1 for
///   an unsigned, 1e300 for a float are refused. nlohmann_json converts first and silently; so the
///   value is converted back, and each number of the text is compared with the one that stands in
///   its place. A fraction may be rounded to float; a whole number must be kept exactly, also by a
///   float or double.
/// - What goes wrong is told with its place, as a JSON pointer: `missing field /user/age`,
///   `/user/age: type must be number, but is string`, `/user/age: 300 does not fit its type`.
/// - Text that is nested deeper than 512 levels is refused before it is parsed.
///
/// The limits of this: a field that to_json() leaves out, or writes under another name or as
/// something else than a number, is not compared. Where from_json() changes a number on purpose
/// (clamps it, say) and to_json() does not change it back, the change is refused. Elements of an
/// array may come back in another order (std::set, std::unordered_map with other keys than
/// strings), but must then be equal as a whole; there, fractions that a float rounds are refused.
/// To find the place of a mistake, from_json() is called again with parts of the text replaced, so
/// it should do nothing else than read; a place that is not found within a bounded number of calls
/// is told by the nearest enclosing one that is known, and a place is not told for exceptions that
/// are not nlohmann_json's own.
namespace taskmux {
inline namespace v0 {

/// A type that nlohmann_json can read and write.
template <typename T>
concept JsonValue = requires(const T& value, const nlohmann::json& document) {
  nlohmann::json(value);
  document.get<T>();
};

/// The JSON text of `value`. Throws Error{invalid_argument} for what JSON can't hold: a number that
/// is not finite, a text that is not UTF-8; also if its to_json() throws anything.
template <JsonValue T>
std::string to_json_text(const T& value);

/// The value that `text` holds. Throws Error{malformed} if it does not hold a T, or a number that
/// does not fit; the Error's text says where.
template <JsonValue T>
T from_json_text(std::string_view text);

/// A task whose payload is the JSON text of `value`. Throws as to_json_text() does.
template <JsonValue T>
Task json_task(std::string type, const T& value, Headers headers = {}) {
  return {.type = std::move(type), .payload = to_json_text(value), .headers = std::move(headers)};
}

/// Enqueues json_task(type, value). Throws as to_json_text() and Client::enqueue() do.
template <JsonValue T>
EnqueueResult enqueue_json(Client& client, std::string type, const T& value,
                           EnqueueOptions options = {}) {
  return client.enqueue(json_task(std::move(type), value), std::move(options));
}

/// A callable that takes (Context&, const T&), and returns an Outcome or nothing (see
/// HandlerFunction).
template <typename F, typename T>
concept JsonHandlerFunction = detail::fault_of_handler<F, T>()
== detail::HandlerFault::none;

/// Registers a handler for tasks whose payload is the JSON text of a T:
///     handle_json<Email>(mux, "email:send", [](Context& context, const Email& email) { ... });
/// A payload that does not hold a T is archived without retry, and `function` is not called. Throws
/// as ServeMux::handle() does.
template <JsonValue T, typename F>
void handle_json(ServeMux& mux, std::string pattern, F function, HandleOptions options = {});

/// Sets the JSON text of `value` as the task's result (see Context::set_result()). Throws as
/// to_json_text() does, which in a handler fails the attempt.
template <JsonValue T>
void set_json_result(Context& context, const T& value) {
  context.set_result(to_json_text(value));
}

/// The result that set_json_result() kept with a task; nullopt if it has none. Throws
/// Error{malformed}, with the task's id, if it does not hold a T.
template <JsonValue T>
std::optional<T> json_result(const TaskInfo& task);

}  // namespace v0
}  // namespace taskmux

#include "taskmux/detail/api/json.hpp"
