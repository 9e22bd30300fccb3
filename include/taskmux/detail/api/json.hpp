#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/json.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

using Json = nlohmann::json;

/// nlohmann_json parses any depth, but copies, converts and writes recursively.
inline constexpr std::size_t json_max_depth = 512;

/// The maximum length of a cause; nlohmann_json's own texts can quote a whole payload.
inline constexpr std::size_t json_cause_bytes = 512;

[[noreturn]] inline void refuse_json(const std::string& place, const std::string& cause) {
  const std::string text = place.empty() ? cause : place + ": " + cause;
  throw Error{Errc::malformed, bounded_utf8(text, 2 * json_cause_bytes)};
}

/// Returns how deep the brackets of `text` are nested. `text` need not be valid JSON.
inline std::size_t json_depth(std::string_view text) noexcept {
  std::size_t depth = 0;
  std::size_t deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

inline std::string json_too_deep() {
  return "nested deeper than " + std::to_string(json_max_depth) + " levels";
}

/// Returns the text of an exception of nlohmann_json, without its prefix, and worded for the reader
/// of JSON: a value has another type than the program expects.
inline std::string json_cause(std::string_view what) {
  const std::size_t name_end = what.starts_with('[') ? what.find("] ") : std::string_view::npos;
  if (name_end != std::string_view::npos) what.remove_prefix(name_end + 2);
  constexpr std::string_view no_fields = "cannot use at() with ";
  if (what.starts_with(no_fields)) {
    const std::string_view type = what.substr(no_fields.size());
    const std::string_view wanted = type == "array"    ? "object"
                                    : type == "object" ? "array"
                                                       : "object or array";
    return "type must be " + std::string{wanted} + ", but is " + bounded_utf8(type, 64);
  }
  return bounded_utf8(what, json_cause_bytes);
}

inline Json parse_json(std::string_view text) {
  if (json_depth(text) > json_max_depth) refuse_json("", json_too_deep());
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    refuse_json("", json_cause(e.what()));
  }
}

/// Parts of a document that are replaced by unreadable values while this object lives.
class JsonPoison {
 public:
  JsonPoison(std::span<Json* const> nodes, Json::value_t kind) : nodes_{nodes} {
    kept_.reserve(nodes.size());
    for (Json* node : nodes_) {
      kept_.push_back(std::move(*node));
      *node = Json(kind);
    }
  }
  JsonPoison(const JsonPoison&) = delete;
  JsonPoison& operator=(const JsonPoison&) = delete;
  ~JsonPoison() {
    for (std::size_t i = 0; i < nodes_.size(); ++i) *nodes_[i] = std::move(kept_[i]);
  }

 private:
  std::span<Json* const> nodes_;
  std::vector<Json> kept_;
};

/// Finds the part of a document that a reader failed on, although the reader's exception does not
/// name it. If a part is replaced by something unreadable, the exception changes if and only if the
/// reader reads the part before it fails, or fails on it; of these parts, the culprit is the one
/// that is read last.
class JsonCulprit {
 public:
  /// Returns the text of the exception that the reader throws for the document in its present
  /// state; empty if it throws none.
  using Reader = std::function<std::string()>;

  /// `document` is changed during the calls of `read`, of which there are at most `attempts`.
  JsonCulprit(Json& document, Reader read, std::string what, int attempts)
      : document_{document}, read_{std::move(read)}, what_{std::move(what)}, attempts_{attempts} {
    const std::string_view text = what_;
    const std::size_t key = text.find("key '");
    constexpr std::string_view key_end = "' not found";
    if (text.find("out_of_range.403") != text.npos && key != text.npos && text.ends_with(key_end))
      missing_key_ = text.substr(key + 5, text.size() - key_end.size() - key - 5);
    too_short_ = text.find("out_of_range.401") != text.npos;
  }

  /// Throws Error{malformed} with the cause and its place.
  [[noreturn]] void refuse() {
    const Json::json_pointer place = find();
    const std::string cause = json_cause(what_);
    const bool at_top = place.empty() && cause.starts_with("type must be ");
    if (!missing_key_) refuse_json(at_top ? "the whole" : place.to_string(), cause);
    if (attempts_ > 0) refuse_json("", "missing field " + (place / *missing_key_).to_string());
    refuse_json(place.to_string(), "missing field \"" + *missing_key_ + "\" there or further in");
  }

 private:
  Json::json_pointer find() {
    Json::json_pointer place;
    for (Json* node = &document_; node && !lacks_something(*node);) node = step(*node, place);
    return place;
  }

  /// Returns the child of `node` that is or contains the culprit, and its place; null if the
  /// culprit is `node` itself.
  Json* step(Json& node, Json::json_pointer& place) {
    if (!node.is_structured()) return nullptr;
    std::vector<Json*> children;
    children.reserve(node.size());
    for (Json& child : node) children.push_back(&child);
    const std::optional<std::size_t> index = last_read(children, node.is_array());
    if (!index) return nullptr;
    if (node.is_array()) {
      place /= *index;
    } else {
      place /= std::next(node.begin(), static_cast<std::ptrdiff_t>(*index)).key();
    }
    return children[*index];
  }

  std::optional<std::size_t> last_read(std::span<Json* const> children, bool in_order) {
    std::optional<std::size_t> latest;
    for (std::size_t end = children.size(); end > 0 && attempts_ > 0;) {
      const std::optional<std::size_t> found = last_that_is_read(children.first(end));
      if (!found) break;
      if (!latest || is_read_before(children[*latest], children[*found])) latest = found;
      if (in_order) break;
      end = *found;
    }
    return latest;
  }

  std::optional<std::size_t> last_that_is_read(std::span<Json* const> children) {
    if (!any_is_read(children)) return std::nullopt;
    std::size_t low = 0;
    for (std::size_t high = children.size(); high - low > 1;) {
      const std::size_t middle = low + (high - low) / 2;
      if (any_is_read(children.subspan(middle))) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }

  bool any_is_read(std::span<Json* const> nodes) {
    const JsonPoison poison{nodes, Json::value_t::discarded};
    return changes();
  }

  bool is_read_before(Json* first, Json* second) {
    const JsonPoison poison{{&first, 1}, Json::value_t::discarded};
    const JsonPoison other{{&second, 1}, Json::value_t::binary};
    return attempt().ends_with("discarded");
  }

  /// Returns whether the reader requested a key or an element that `node` does not have.
  bool lacks_something(Json& node) {
    if (missing_key_ && node.is_object() && !node.contains(*missing_key_)) {
      node[*missing_key_] = Json(Json::value_t::discarded);
      const bool lacked = changes();
      node.erase(*missing_key_);
      return lacked;
    }
    if (too_short_ && node.is_array()) {
      node.push_back(Json(Json::value_t::discarded));
      const bool lacked = changes();
      node.erase(node.size() - 1);
      return lacked;
    }
    return false;
  }

  bool changes() { return attempts_ > 0 && attempt() != what_; }

  std::string attempt() {
    --attempts_;
    return read_();
  }

  Json& document_;
  const Reader read_;
  const std::string what_;
  std::optional<std::string> missing_key_;
  bool too_short_ = false;
  int attempts_;
};

/// How often a document may be read again to find an error in it: as often as is cheap.
inline int json_attempts(std::size_t bytes) noexcept {
  constexpr std::size_t work = std::size_t{16} << 20;
  return static_cast<int>(std::clamp<std::size_t>(work / (bytes + 1), 24, 2000));
}

/// Returns the integer of type `Integer` that a double holds, if it holds one.
template <typename Integer>
std::optional<Integer> exact_integer(double number) noexcept {
  const double above = std::ldexp(1.0, std::numeric_limits<Integer>::digits);
  const double least = std::is_signed_v<Integer> ? -above : 0.0;
  if (!(number >= least && number < above) || std::trunc(number) != number) return std::nullopt;
  return static_cast<Integer>(number);
}

inline bool is_same_integer(const Json& integer, double number) {
  if (integer.is_number_unsigned()) {
    const auto exact = exact_integer<std::uint64_t>(number);
    return exact && *exact == integer.get<std::uint64_t>();
  }
  const auto exact = exact_integer<std::int64_t>(number);
  return exact && *exact == integer.get<std::int64_t>();
}

inline bool is_same_integer(const Json& a, const Json& b) {
  if (a.is_number_unsigned() && b.is_number_unsigned())
    return a.get<std::uint64_t>() == b.get<std::uint64_t>();
  if (a.is_number_unsigned()) return std::cmp_equal(a.get<std::uint64_t>(), b.get<std::int64_t>());
  if (b.is_number_unsigned()) return std::cmp_equal(a.get<std::int64_t>(), b.get<std::uint64_t>());
  return a.get<std::int64_t>() == b.get<std::int64_t>();
}

/// Returns whether `out` is the result of converting `in` to float or double.
inline bool is_same_fraction(double in, double out) noexcept {
  if (in == out) return true;
  if (!(std::abs(in) <= static_cast<double>(std::numeric_limits<float>::max()))) return false;
  return static_cast<double>(static_cast<float>(in)) == out;
}

/// Returns whether the number (or Boolean) `in` is preserved in `out`. Returns true if `out` can't
/// be compared with it.
inline bool is_number_kept(const Json& in, const Json& out) {
  if (in.is_boolean()) return !out.is_number();
  if (!in.is_number() || !out.is_number()) return true;
  if (in.is_number_float() && out.is_number_float())
    return is_same_fraction(in.get<double>(), out.get<double>());
  if (in.is_number_float()) return is_same_integer(out, in.get<double>());
  if (out.is_number_float()) return is_same_integer(in, out.get<double>());
  return is_same_integer(in, out);
}

/// Returns the place that `inwards` names, the innermost part first.
inline Json::json_pointer json_place(const std::vector<std::string>& inwards) {
  Json::json_pointer place;
  for (auto token = inwards.rbegin(); token != inwards.rend(); ++token) place /= *token;
  return place;
}

/// Compares the numbers of a text with those of the value that was read from it and written again.
class JsonComparison {
 public:
  /// Returns true if all are preserved; else place() names the first that is not.
  bool kept(const Json& in, const Json& out) {
    if (in.is_array() && out.is_array()) return elements_kept(in, out);
    if (!in.is_object() || !out.is_object()) return is_number_kept(in, out);
    for (auto field = in.begin(); field != in.end(); ++field) {
      const auto written = out.find(field.key());
      if (written != out.end() && !kept(*field, *written)) return is_lost(field.key());
    }
    return true;
  }

  Json::json_pointer place() const { return json_place(inwards_); }

 private:
  bool elements_kept(const Json& in, const Json& out) {
    const std::size_t both = std::min(in.size(), out.size());
    std::size_t same = 0;
    while (same < both && kept(in[same], out[same])) ++same;
    if (same == in.size()) return true;

    // Sets change the order, and drop duplicates.
    const std::vector<std::string> inwards = std::exchange(inwards_, {});
    std::vector<std::string> written;
    written.reserve(out.size());
    for (const Json& element : out) written.push_back(comparable(element));
    std::sort(written.begin(), written.end());
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!holds_number(in[i]) ||
          std::binary_search(written.begin(), written.end(), comparable(in[i])))
        continue;
      if (i == same) inwards_ = inwards;
      return is_lost(std::to_string(i));
    }
    return true;
  }

  bool is_lost(const std::string& token) {
    inwards_.push_back(token);
    return false;
  }

  static bool holds_number(const Json& value) {
    if (value.is_structured()) return std::any_of(value.begin(), value.end(), holds_number);
    return value.is_number() || value.is_boolean();
  }

  /// Returns a text that is equal for equal values.
  static std::string comparable(Json value) {
    normalise(value);
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  static void normalise(Json& value) {
    if (value.is_structured()) {
      for (Json& child : value) normalise(child);
    } else if (value.is_number_float()) {
      const double number = value.get<double>();
      if (const auto natural = exact_integer<std::uint64_t>(number)) {
        value = *natural;
      } else if (const auto whole = exact_integer<std::int64_t>(number)) {
        value = *whole;
      }
    }
  }

  std::vector<std::string> inwards_;  // the place, the innermost part first
};

/// Converts `document`, whose text had `bytes` bytes. Throws Error{malformed}.
template <JsonValue T>
T convert_json(Json& document, std::size_t bytes) {
  try {
    return document.get<T>();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const Json::exception& e) {
    const auto read = [&document]() -> std::string {
      try {
        static_cast<void>(document.get<T>());
        return {};
      } catch (const std::exception& again) {
        return text_of_exception(again);
      } catch (...) {
        return "not a std::exception";
      }
    };
    JsonCulprit{document, read, e.what(), json_attempts(bytes)}.refuse();
  } catch (const std::exception& e) {
    refuse_json("", text_of_exception(e));
  } catch (...) {
    refuse_json("", "from_json() threw " + text_of_exception());
  }
}

/// Returns `value` as a document. Throws Error{errc} if its to_json() throws.
template <JsonValue T>
Json document_of(const T& value, Errc errc) {
  try {
    return Json(value);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    throw Error{errc, "to_json() threw: " + json_cause(text_of_exception(e))};
  } catch (...) {
    throw Error{errc, "to_json() threw " + text_of_exception()};
  }
}

/// Throws Error{malformed} if a number of `document` differs from the number in its place in
/// `written`.
inline void check_numbers(const Json& document, const Json& written) {
  JsonComparison comparison;
  if (comparison.kept(document, written)) return;
  const Json::json_pointer place = comparison.place();
  const Json& number = document.at(place);
  const std::string what = number.is_structured() ? "a number in it" : number.dump();
  refuse_json(place.to_string(), what + " does not fit its type");
}

/// As from_json_text(), but the Error's text is only the cause.
template <JsonValue T>
T read_json(std::string_view text) {
  Json document = parse_json(text);
  T value = convert_json<T>(document, text.size());
  if constexpr (!std::is_same_v<T, Json>)
    check_numbers(document, document_of(value, Errc::malformed));
  return value;
}

/// Finds a number that is not finite; returns its place, the innermost part first.
inline bool find_not_finite(const Json& value, std::vector<std::string>& inwards) {
  if (value.is_number_float()) return !std::isfinite(value.get<double>());
  if (value.is_object()) {
    for (auto field = value.begin(); field != value.end(); ++field) {
      if (!find_not_finite(*field, inwards)) continue;
      inwards.push_back(field.key());
      return true;
    }
  } else if (value.is_array()) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      if (!find_not_finite(value[i], inwards)) continue;
      inwards.push_back(std::to_string(i));
      return true;
    }
  }
  return false;
}

/// Implements a TaskHandler: reads the payload and calls `function` with it.
template <typename T, typename F>
class JsonHandler {
 public:
  explicit JsonHandler(F function) : function_{std::move(function)} {}

  Outcome operator()(Context& context, const Task& task) const {
    std::optional<T> value;
    try {
      value.emplace(read_json<T>(task.payload));
    } catch (const Error& e) {
      return Outcome::skip_retry("payload of " + in_quotes(task.type) + ": " + e.what());
    }
    return call_function(function_, context, *value);
  }

 private:
  F function_;
};

}  // namespace detail

template <JsonValue T>
std::string to_json_text(const T& value) {
  return detail::during("write JSON", [&] {
    const detail::Json document = detail::document_of(value, Errc::invalid_argument);
    std::vector<std::string> inwards;
    if (detail::find_not_finite(document, inwards)) {
      throw Error{Errc::invalid_argument,
                  detail::json_place(inwards).to_string() + ": a number that is not finite"};
    }
    std::string text;
    try {
      text = document.dump();
    } catch (const detail::Json::exception& e) {
      throw Error{Errc::invalid_argument, detail::json_cause(e.what())};
    }
    if (detail::json_depth(text) > detail::json_max_depth)
      throw Error{Errc::invalid_argument, detail::json_too_deep()};
    return text;
  });
}

template <JsonValue T>
T from_json_text(std::string_view text) {
  return detail::during("read JSON", [&] { return detail::read_json<T>(text); });
}

template <JsonValue T, typename F>
void handle_json(ServeMux& mux, std::string pattern, F function, HandleOptions options) {
  if constexpr (JsonHandlerFunction<F, T>) {
    mux.handle(std::move(pattern), detail::JsonHandler<T, F>{std::move(function)},
               std::move(options));
  } else {
    detail::refuse_handler<detail::fault_of_handler<F, T>()>();
  }
}

template <JsonValue T>
std::optional<T> json_result(const TaskInfo& task) {
  if (task.result.empty()) return std::nullopt;
  try {
    return detail::read_json<T>(task.result);
  } catch (const Error& e) {
    throw Error{e.errc(),
                "result of " + detail::task_in_words(task.id, {}, task.queue) + ": " + e.what(),
                task.id};
  }
}

}  // namespace v0
}  // namespace taskmux
