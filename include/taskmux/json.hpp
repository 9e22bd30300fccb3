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

/// Typed payloads and results as JSON. Optional: the target taskmux::json, which needs
/// nlohmann_json.
///
/// A type can be used if nlohmann_json can convert it in both directions, for example by
/// NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE. Input is checked more strictly than by nlohmann_json itself:
///
/// - A number must not change when it is read: 300 for a std::uint8_t, 1.5 or `true` for an int, -1
///   for an unsigned, 1e300 for a float are refused. nlohmann_json converts such numbers silently;
///   so the value is converted back, and each number of the text is compared with the number in its
///   place. A fraction may be rounded to float; an integer must be preserved exactly, also by a
///   float or double.
/// - An error is reported with its place, as a JSON pointer: `missing field /user/age`,
///   `/user/age: type must be number, but is string`, `/user/age: 300 does not fit its type`.
/// - Text that is nested deeper than 512 levels is refused before it is parsed.
///
/// Limitations: a field is not compared if to_json() leaves it out, or writes it under another name
/// or as something other than a number. If from_json() changes a number on purpose (clamps it, for
/// example) and to_json() does not change it back, the number is refused. Elements of an array may
/// change their order (std::set, std::unordered_map with keys other than strings), but must then be
/// equal as a whole; fractions that a float rounds are refused there. To find the place of an
/// error, from_json() is called again with parts of the text replaced, so it should have no side
/// effects. If the place is not found within a bounded number of calls, the nearest known enclosing
/// place is reported. For exceptions other than nlohmann_json's own, no place is reported.
namespace taskmux {
inline namespace v0 {

/// A type that nlohmann_json can read and write.
template <typename T>
concept JsonValue = requires(const T& value, const nlohmann::json& document) {
  nlohmann::json(value);
  document.get<T>();
};

/// Returns the JSON text of `value`. Throws Error{invalid_argument} for values that JSON can't
/// represent: a number that is not finite, a text that is not UTF-8; also if its to_json() throws.
template <JsonValue T>
std::string to_json_text(const T& value);

/// Returns the value that `text` contains. Throws Error{malformed} if `text` does not contain a T,
/// or contains a number that does not fit its type; the Error's text says where.
template <JsonValue T>
T from_json_text(std::string_view text);

/// Returns a task whose payload is the JSON text of `value`. Throws as to_json_text() does.
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

/// A callable that takes (Context&, const T&) and returns an Outcome or void (see HandlerFunction).
template <typename F, typename T>
concept JsonHandlerFunction = detail::fault_of_handler<F, T>()
== detail::HandlerFault::none;

/// Registers a handler for tasks whose payload is the JSON text of a T:
///     handle_json<Email>(mux, "email:send", [](Context& context, const Email& email) { ... });
/// A task whose payload does not contain a T is archived without retries, and `function` is not
/// called. Throws as ServeMux::handle() does.
template <JsonValue T, typename F>
void handle_json(ServeMux& mux, std::string pattern, F function, HandleOptions options = {});

/// Sets the JSON text of `value` as the task's result (see Context::set_result()). Throws as
/// to_json_text() and Context::set_result() do; if a handler does not catch that, its attempt
/// fails.
template <JsonValue T>
void set_json_result(Context& context, const T& value) {
  context.set_result(to_json_text(value));
}

/// Returns the result that set_json_result() stored with a task; nullopt if the task has none.
/// Throws Error{malformed}, with the task's id, if the result does not contain a T.
template <JsonValue T>
std::optional<T> json_result(const TaskInfo& task);

}  // namespace v0
}  // namespace taskmux

#include "taskmux/detail/api/json.hpp"
